/*
 * What usernsctl-child needs of a libc, for itself: the system calls, and what compilers take for
 * granted. To start a libc takes longer than all that this program does (303 µs with it, 63
 * without, where a virtual machine has to be asked for the features of its processor).
 */
#ifdef UN_BEFORE_LIBC
#define UN_NO_ENTRY /* that is programs/exec/first_libc.c's */
#endif
#include "base/freestanding.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment);

static int last_error;

/* The agent has several (programs/agent/libc.c). */
__attribute__((weak)) int *__errno_location(void)
{
    return &last_error;
}

/* As libc gives it: -1, with errno. */
__attribute__((always_inline)) static inline long call(long number, long a, long b, long c, long d,
                                                       long e)
{
    long result = un_raw_call(number, a, b, c, d, e, 0);
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

long syscall(long number, ...)
{
    long argument[5];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 5; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    return call(number, argument[0], argument[1], argument[2], argument[3], argument[4]);
}

int prctl(int option, ...)
{
    long argument[4];
    va_list arguments;
    va_start(arguments, option);
    for (int i = 0; i < 4; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    return (int)call(__NR_prctl, option, argument[0], argument[1], argument[2], argument[3]);
}

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return (int)call(__NR_fcntl, fd, command, argument, 0, 0);
}

/* Nothing is created here, so there is no mode. */
int open(const char *path, int flags, ...)
{
    return (int)call(__NR_openat, AT_FDCWD, (long)path, flags, 0, 0);
}

int openat(int dir, const char *path, int flags, ...)
{
    return (int)call(__NR_openat, dir, (long)path, flags, 0, 0);
}

int close(int fd)
{
    return (int)call(__NR_close, fd, 0, 0, 0, 0);
}

ssize_t read(int fd, void *data, size_t size)
{
    return call(__NR_read, fd, (long)data, (long)size, 0, 0);
}

ssize_t write(int fd, const void *data, size_t size)
{
    return call(__NR_write, fd, (long)data, (long)size, 0, 0);
}

ssize_t sendmsg(int socket, const struct msghdr *letter, int flags)
{
    return call(__NR_sendmsg, socket, (long)letter, flags, 0, 0);
}

int unshare(int flags)
{
    return (int)call(__NR_unshare, flags, 0, 0, 0, 0);
}

int setns(int fd, int type)
{
    return (int)call(__NR_setns, fd, type, 0, 0, 0);
}

int mount(const char *source, const char *target, const char *type, unsigned long flags,
          const void *data)
{
    return (int)call(__NR_mount, (long)source, (long)target, (long)type, (long)flags, (long)data);
}

int chroot(const char *path)
{
    return (int)call(__NR_chroot, (long)path, 0, 0, 0, 0);
}

int chdir(const char *path)
{
    return (int)call(__NR_chdir, (long)path, 0, 0, 0, 0);
}

int access(const char *path, int mode)
{
    return (int)call(__NR_faccessat, AT_FDCWD, (long)path, mode, 0, 0);
}

int execve(const char *path, char *const argv[], char *const envp[])
{
    return (int)call(__NR_execve, (long)path, (long)argv, (long)envp, 0, 0);
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
    struct timespec most = {timeout / 1000, timeout % 1000 * 1000000L};
    return (int)call(__NR_ppoll, (long)fds, (long)count, timeout < 0 ? 0 : (long)&most, 0, 0);
}

int pause(void)
{
    return (int)call(__NR_ppoll, 0, 0, 0, 0, 0);
}

/* What the kernel has in place of struct sigaction. */
struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

void (*signal(int sig, void (*handler)(int)))(int)
{
    const struct kernel_sigaction action = {.handler = handler};
    return call(__NR_rt_sigaction, sig, (long)&action, 0, sizeof action.mask, 0) < 0 ? SIG_ERR
                                                                                     : SIG_DFL;
}

/* To look for handlers: there are none where a program has just been executed. */
int sigaction(int sig, const struct sigaction *action, struct sigaction *before)
{
    (void)sig, (void)action, (void)before;
    errno = ENOSYS;
    return -1;
}

void _exit(int status)
{
    for (;;)
        call(__NR_exit_group, status, 0, 0, 0, 0);
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    char *at = to;
    const char *source = from;
    while (size--)
        *at++ = *source++;
    return to;
}

/* Eight bytes at once: what is cleared are tables of many pages. */
void *memset(void *to, int byte, size_t size)
{
    char *at = to;
    const uint64_t eight = (unsigned char)byte * UINT64_C(0x0101010101010101);
    for (; size >= sizeof eight; size -= sizeof eight, at += sizeof eight)
        __builtin_memcpy(at, &eight, sizeof eight);
    while (size--)
        *at++ = (char)byte;
    return to;
}

size_t strnlen(const char *text, size_t most)
{
    size_t length = 0;
    while (length < most && text[length])
        length++;
    return length;
}

size_t strlen(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

#ifndef UN_BEFORE_LIBC
static void start(long *stack)
{
    char **words = (char **)(stack + 1);
    _exit(main((int)stack[0], words, words + stack[0] + 1));
}
#endif
