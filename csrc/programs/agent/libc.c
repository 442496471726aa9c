/* The agent's own libc: system calls, and the functions that compilers require. The agent must run
 * in any root filesystem, so it can't load a libc from the filesystem. The processes that the agent
 * starts share its memory until they execute a command. No other libc supports this. */
#include "base/freestanding.h"
#include "programs/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment);

/* The lowest address of the initial stack. Since the initial stack is above all other memory, any
 * higher address lies on this stack. */
static uintptr_t first_stack;
static int first_error;

/* Upper bound in bytes of the size of the initial stack. */
#define FIRST_STACK_SIZE (256 * 1024)

void agent_split_errno(void)
{
    first_stack = (uintptr_t)__builtin_frame_address(0) - FIRST_STACK_SIZE;
}

int *__errno_location(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    if (here > first_stack)
        return &first_error;
    return (int *)(here - here % AGENT_STACK_SIZE);
}

/* Size in bytes of the kernel's signal sets, which several system calls require as an argument. */
#define SET_SIZE 8

__attribute__((always_inline)) static inline long call(long number, long a, long b, long c, long d,
                                                       long e, long f)
{
    long result = un_raw_call(number, a, b, c, d, e, f);
    if (result >= 0)
        return result;
    errno = (int)-result;
    return -1;
}

/* Macros for libc functions that pass their arguments unchanged to a system call. `type` is the
 * type of the result; A to D are the types of the arguments. */
#define CALL_0(type, name, number)                                                                 \
    type name(void)                                                                                \
    {                                                                                              \
        return (type)call(number, 0, 0, 0, 0, 0, 0);                                               \
    }
#define CALL_1(type, name, number, A)                                                              \
    type name(A a)                                                                                 \
    {                                                                                              \
        return (type)call(number, (long)a, 0, 0, 0, 0, 0);                                         \
    }
#define CALL_2(type, name, number, A, B)                                                           \
    type name(A a, B b)                                                                            \
    {                                                                                              \
        return (type)call(number, (long)a, (long)b, 0, 0, 0, 0);                                   \
    }
#define CALL_3(type, name, number, A, B, C)                                                        \
    type name(A a, B b, C c)                                                                       \
    {                                                                                              \
        return (type)call(number, (long)a, (long)b, (long)c, 0, 0, 0);                             \
    }
#define CALL_4(type, name, number, A, B, C, D)                                                     \
    type name(A a, B b, C c, D d)                                                                  \
    {                                                                                              \
        return (type)call(number, (long)a, (long)b, (long)c, (long)d, 0, 0);                       \
    }

CALL_0(pid_t, getpid, __NR_getpid)
CALL_0(pid_t, getppid, __NR_getppid)
CALL_0(pid_t, setsid, __NR_setsid)
CALL_0(uid_t, getuid, __NR_getuid)
CALL_1(int, close, __NR_close, int)
CALL_1(int, chdir, __NR_chdir, const char *)
CALL_1(pid_t, getpgid, __NR_getpgid, pid_t)
CALL_1(mode_t, umask, __NR_umask, mode_t)
CALL_2(int, shutdown, __NR_shutdown, int, int)
/* Use dup3(2), because some architectures lack dup2(2). dup3(2) fails if both descriptors are
 * equal, but the agent never calls dup2() with equal descriptors. */
CALL_2(int, dup2, __NR_dup3, int, int)
CALL_2(int, kill, __NR_kill, pid_t, int)
CALL_2(int, setpgid, __NR_setpgid, pid_t, pid_t)
CALL_2(int, fstat, __NR_fstat, int, struct stat *)
CALL_2(int, fstatfs, __NR_fstatfs, int, struct statfs *)
CALL_2(int, munmap, __NR_munmap, void *, size_t)
CALL_3(ssize_t, read, __NR_read, int, void *, size_t)
CALL_3(ssize_t, write, __NR_write, int, const void *, size_t)
CALL_3(int, execve, __NR_execve, const char *, char *const *, char *const *)
CALL_3(ssize_t, recvmsg, __NR_recvmsg, int, struct msghdr *, int)
CALL_4(ssize_t, recv, __NR_recvfrom, int, void *, size_t, int)
CALL_4(ssize_t, send, __NR_sendto, int, const void *, size_t, int)
CALL_4(pid_t, wait4, __NR_wait4, pid_t, int *, int, struct rusage *)
CALL_4(int, waitid, __NR_waitid, idtype_t, id_t, siginfo_t *, int)

int pipe2(int fds[2], int flags)
{
    return (int)call(__NR_pipe2, (long)fds, flags, 0, 0, 0, 0);
}

long syscall(long number, ...)
{
    long argument[5];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 5; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    return call(number, argument[0], argument[1], argument[2], argument[3], argument[4], 0);
}

int prctl(int option, ...)
{
    long argument[4];
    va_list arguments;
    va_start(arguments, option);
    for (int i = 0; i < 4; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    return (int)call(__NR_prctl, option, argument[0], argument[1], argument[2], argument[3], 0);
}

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return (int)call(__NR_fcntl, fd, command, argument, 0, 0, 0);
}

/* Ignores the mode of a new file, because copy_in.c, which creates files, calls syscall()
 * instead. */
int open(const char *path, int flags, ...)
{
    return (int)call(__NR_openat, AT_FDCWD, (long)path, flags, 0, 0, 0);
}

int openat(int dir, const char *path, int flags, ...)
{
    return (int)call(__NR_openat, dir, (long)path, flags, 0, 0, 0);
}

int access(const char *path, int mode)
{
    return (int)call(__NR_faccessat, AT_FDCWD, (long)path, mode, 0, 0, 0);
}

/* Always fails. The agent calls this function only to find signal handlers that must be reset, and
 * the agent has none. */
int sigaction(int sig, const struct sigaction *action, struct sigaction *before)
{
    (void)sig, (void)action, (void)before;
    errno = ENOSYS;
    return -1;
}

void _exit(int status)
{
    for (;;)
        call(__NR_exit_group, status, 0, 0, 0, 0, 0);
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    char *at = to;
    const char *source = from;
    while (size--)
        *at++ = *source++;
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    char *at = to;
    const char *source = from;
    if (at > source)
        while (size--)
            at[size] = source[size];
    else
        while (size--)
            *at++ = *source++;
    return to;
}

/* Writes eight bytes at a time, because the agent clears large tables. */
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

/* Passes a copy of the timeout, because the kernel overwrites it with the remaining time. */
int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *most, const sigset_t *mask)
{
    struct timespec left = most ? *most : (struct timespec){0, 0};
    return (int)call(__NR_ppoll, (long)fds, (long)count, most ? (long)&left : 0, (long)mask,
                     SET_SIZE, 0);
}

int signalfd(int fd, const sigset_t *mask, int flags)
{
    return (int)call(__NR_signalfd4, fd, (long)mask, SET_SIZE, flags, 0, 0);
}

int sigemptyset(sigset_t *set)
{
    memset(set, 0, sizeof *set);
    return 0;
}

int sigaddset(sigset_t *set, int sig)
{
    /* Use a cast, because the array in sigset_t has a different name in each libc. */
    *(unsigned long *)set |= 1UL << (sig - 1);
    return 0;
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    return wait4(pid, status, options, NULL);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return (int)call(__NR_ioctl, fd, (long)request, argument, 0, 0, 0);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return (void *)call(__NR_mmap, (long)at, (long)size, protection, flags, fd, offset);
}

int strcmp(const char *one, const char *other)
{
    return strncmp(one, other, SIZE_MAX);
}

int strncmp(const char *one, const char *other, size_t most)
{
    for (; most--; one++, other++) {
        if (*one != *other)
            return (unsigned char)*one - (unsigned char)*other;
        if (!*one)
            break;
    }
    return 0;
}

static void start(long *stack)
{
    char **argv = (char **)(stack + 1);
    _exit(main((int)stack[0], argv, argv + stack[0] + 1));
}
