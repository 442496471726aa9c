/*
 * The agent's own libc: system calls, and the functions that compilers assume. The agent runs in
 * any root filesystem, and shares its memory with the processes that it starts until they execute a
 * command, which no other libc supports.
 */
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

/* The lowest address of the initial stack, which is above all other memory. */
static uintptr_t first_stack;
static int first_error;

/* The assumed maximum size of the initial stack. */
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

/* The size of the kernel's signal sets, an argument of several system calls. */
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

/* Ignores the mode argument: the agent creates no files. */
int open(const char *path, int flags, ...)
{
    return (int)call(__NR_openat, AT_FDCWD, (long)path, flags, 0, 0, 0);
}

int openat(int dir, const char *path, int flags, ...)
{
    return (int)call(__NR_openat, dir, (long)path, flags, 0, 0, 0);
}

int close(int fd)
{
    return (int)call(__NR_close, fd, 0, 0, 0, 0, 0);
}

ssize_t read(int fd, void *data, size_t size)
{
    return call(__NR_read, fd, (long)data, (long)size, 0, 0, 0);
}

ssize_t write(int fd, const void *data, size_t size)
{
    return call(__NR_write, fd, (long)data, (long)size, 0, 0, 0);
}

int chdir(const char *path)
{
    return (int)call(__NR_chdir, (long)path, 0, 0, 0, 0, 0);
}

int access(const char *path, int mode)
{
    return (int)call(__NR_faccessat, AT_FDCWD, (long)path, mode, 0, 0, 0);
}

int execve(const char *path, char *const argv[], char *const envp[])
{
    return (int)call(__NR_execve, (long)path, (long)argv, (long)envp, 0, 0, 0);
}

/* Always fails: callers only look for signal handlers to reset, and the agent installs none. */
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

/* Writes eight bytes at a time, since the agent clears tables of many pages. */
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

int pipe2(int fds[2], int flags)
{
    return (int)call(__NR_pipe2, (long)fds, flags, 0, 0, 0, 0);
}

ssize_t recvmsg(int socket, struct msghdr *letter, int flags)
{
    return call(__NR_recvmsg, socket, (long)letter, flags, 0, 0, 0);
}

ssize_t recv(int socket, void *data, size_t size, int flags)
{
    return call(__NR_recvfrom, socket, (long)data, (long)size, flags, 0, 0);
}

ssize_t send(int socket, const void *data, size_t size, int flags)
{
    return call(__NR_sendto, socket, (long)data, (long)size, flags, 0, 0);
}

int shutdown(int socket, int how)
{
    return (int)call(__NR_shutdown, socket, how, 0, 0, 0, 0);
}

/* The agent never passes equal descriptors, with which dup3(2) fails, unlike dup2(2). */
int dup2(int fd, int to)
{
    return (int)call(__NR_dup3, fd, to, 0, 0, 0, 0);
}

/* Copies the timeout, because the kernel overwrites it with the remaining time. */
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
    /* A cast, because libcs name the array in sigset_t differently. */
    *(unsigned long *)set |= 1UL << (sig - 1);
    return 0;
}

int kill(pid_t pid, int sig)
{
    return (int)call(__NR_kill, pid, sig, 0, 0, 0, 0);
}

pid_t wait4(pid_t pid, int *status, int options, struct rusage *used)
{
    return (pid_t)call(__NR_wait4, pid, (long)status, options, (long)used, 0, 0);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
    return wait4(pid, status, options, NULL);
}

int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
    return (int)call(__NR_waitid, (long)type, (long)id, (long)info, options, 0, 0);
}

pid_t getpid(void)
{
    return (pid_t)call(__NR_getpid, 0, 0, 0, 0, 0, 0);
}

pid_t getppid(void)
{
    return (pid_t)call(__NR_getppid, 0, 0, 0, 0, 0, 0);
}

pid_t getpgid(pid_t pid)
{
    return (pid_t)call(__NR_getpgid, pid, 0, 0, 0, 0, 0);
}

int setpgid(pid_t pid, pid_t group)
{
    return (int)call(__NR_setpgid, pid, group, 0, 0, 0, 0);
}

pid_t setsid(void)
{
    return (pid_t)call(__NR_setsid, 0, 0, 0, 0, 0, 0);
}

mode_t umask(mode_t mask)
{
    return (mode_t)call(__NR_umask, mask, 0, 0, 0, 0, 0);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    long argument = va_arg(arguments, long);
    va_end(arguments);
    return (int)call(__NR_ioctl, fd, (long)request, argument, 0, 0, 0);
}

int fstatfs(int fd, struct statfs *fs)
{
    return (int)call(__NR_fstatfs, fd, (long)fs, 0, 0, 0, 0);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return (void *)call(__NR_mmap, (long)at, (long)size, protection, flags, fd, offset);
}

int munmap(void *at, size_t size)
{
    return (int)call(__NR_munmap, (long)at, (long)size, 0, 0, 0, 0);
}

uid_t getuid(void)
{
    return (uid_t)call(__NR_getuid, 0, 0, 0, 0, 0, 0);
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
    char **words = (char **)(stack + 1);
    _exit(main((int)stack[0], words, words + stack[0] + 1));
}
