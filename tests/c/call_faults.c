/*
 * Wrappers of libc functions that simulate failures, for tools/c_faults.py.
 *
 * objcopy(1) renames the functions in the object files of csrc/: read() becomes faulty_read(). Each
 * wrapper records the call sites from which it is called in the file
 * $USERNSCTL_CALL_FAULTS/PROGRAM. If that file says that a call site must fail, the wrapper fails
 * there once. All processes of a program map the file, and so share it.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define PROT_READ_WRITE 3
#define MAP_SHARED 1
#define SITES_MAX 4094
#define O_RDWR_CREAT_CLOEXEC 02000102

/* The functions that can fail on purpose: name, return value of a failure, and errno.
 * tools/c_faults.py parses the names. */
#define CALLS(X)                                                                                   \
    X(accept4, -1, EMFILE)                                                                         \
    X(access, -1, EACCES)                                                                          \
    X(asprintf, -1, ENOMEM)                                                                        \
    X(bind, -1, EADDRINUSE)                                                                        \
    X(calloc, 0, ENOMEM)                                                                           \
    X(chdir, -1, EACCES)                                                                           \
    X(chmod, -1, EPERM)                                                                            \
    X(chroot, -1, EPERM)                                                                           \
    X(connect, -1, ECONNREFUSED)                                                                   \
    X(dup2, -1, EMFILE)                                                                            \
    X(dup3, -1, EMFILE)                                                                            \
    X(execve, -1, EACCES)                                                                          \
    X(faccessat, -1, EACCES)                                                                       \
    X(fchmod, -1, EPERM)                                                                           \
    X(fcntl, -1, EMFILE)                                                                           \
    X(fdopen, 0, ENOMEM)                                                                           \
    X(fdopendir, 0, ENOMEM)                                                                        \
    X(fgetxattr, -1, ENODATA)                                                                      \
    X(fopen, 0, EMFILE)                                                                            \
    X(fork, -1, EAGAIN)                                                                            \
    X(fstat, -1, EIO)                                                                              \
    X(fstatat, -1, EACCES)                                                                         \
    X(fstatfs, -1, EIO)                                                                            \
    X(fstatvfs, -1, EIO)                                                                           \
    X(__getdelim, -1, ENOMEM)                                                                      \
    X(getcwd, 0, ENOENT)                                                                           \
    X(getrandom, -1, ENOSYS)                                                                       \
    X(getrlimit, -1, EINVAL)                                                                       \
    X(getsockopt, -1, ENOBUFS)                                                                     \
    X(getxattr, -1, ENODATA)                                                                       \
    X(ioctl, -1, EIO)                                                                              \
    X(kill, -1, EPERM)                                                                             \
    X(listen, -1, EADDRINUSE)                                                                      \
    X(lseek, -1, EIO)                                                                              \
    X(lstat, -1, EACCES)                                                                           \
    X(malloc, 0, ENOMEM)                                                                           \
    X(memfd_create, -1, EMFILE)                                                                    \
    X(mkdir, -1, ENOSPC)                                                                           \
    X(mkdirat, -1, ENOSPC)                                                                         \
    X(mmap, -1, ENOMEM)                                                                            \
    X(mount, -1, EPERM)                                                                            \
    X(mprotect, -1, ENOMEM)                                                                        \
    X(open, -1, EMFILE)                                                                            \
    X(openat, -1, EMFILE)                                                                          \
    X(opendir, 0, EMFILE)                                                                          \
    X(pipe2, -1, EMFILE)                                                                           \
    X(poll, -1, EINTR)                                                                             \
    X(ppoll, -1, EINTR)                                                                            \
    X(prctl, -1, EPERM)                                                                            \
    X(pread, -1, EIO)                                                                              \
    X(read, -1, EIO)                                                                               \
    X(readlink, -1, EACCES)                                                                        \
    X(readlinkat, -1, EACCES)                                                                      \
    X(realloc, 0, ENOMEM)                                                                          \
    X(reallocarray, 0, ENOMEM)                                                                     \
    X(realpath, 0, EACCES)                                                                         \
    X(recv, -1, ENOMEM)                                                                            \
    X(recvmsg, -1, ENOMEM)                                                                         \
    X(send, -1, EPIPE)                                                                             \
    X(sendfile, -1, EIO)                                                                           \
    X(sendmsg, -1, ETOOMANYREFS)                                                                   \
    X(setns, -1, EPERM)                                                                            \
    X(setpgid, -1, EPERM)                                                                          \
    X(setrlimit, -1, EPERM)                                                                        \
    X(setsid, -1, EPERM)                                                                           \
    X(setsockopt, -1, ENOMEM)                                                                      \
    X(sigaction, -1, EINVAL)                                                                       \
    X(signalfd, -1, EMFILE)                                                                        \
    X(socket, -1, EMFILE)                                                                          \
    X(socketpair, -1, EMFILE)                                                                      \
    X(stat, -1, EACCES)                                                                            \
    X(statfs, -1, EIO)                                                                             \
    X(statvfs, -1, EIO)                                                                            \
    X(strdup, 0, ENOMEM)                                                                           \
    X(strndup, 0, ENOMEM)                                                                          \
    X(symlinkat, -1, ENOSPC)                                                                       \
    X(syscall, -1, EPERM)                                                                          \
    X(tcgetattr, -1, EIO)                                                                          \
    X(tcsetattr, -1, EIO)                                                                          \
    X(tcsetpgrp, -1, EPERM)                                                                        \
    X(umount2, -1, EBUSY)                                                                          \
    X(uname, -1, EFAULT)                                                                           \
    X(unlinkat, -1, EACCES)                                                                        \
    X(unshare, -1, EPERM)                                                                          \
    X(waitid, -1, EINVAL)                                                                          \
    X(write, -1, EIO)

/* The content of $USERNSCTL_CALL_FAULTS/PROGRAM. A call site is a return address, relative to the
 * start of the program. */
struct record {
    uint64_t chosen; /* the call site that must fail; 0 for none */
    uint64_t count;
    uint64_t site[SITES_MAX];
};

extern char __executable_start;
extern char *program_invocation_short_name;
char *getenv(const char *);
int close(int);
int ftruncate(int, long);
int open(const char *, int, ...);
void *mmap(void *, unsigned long, int, int, int, long);

static struct record *record;

__attribute__((constructor)) static void open_record(void)
{
    char path[4096];
    const char *directory = getenv("USERNSCTL_CALL_FAULTS");
    snprintf(path, sizeof path, "%s/%s", directory ? directory : "", program_invocation_short_name);
    int fd = directory ? open(path, O_RDWR_CREAT_CLOEXEC, 0666) : -1;
    if (fd < 0)
        return;
    void *mapped = ftruncate(fd, sizeof *record)
                       ? (void *)-1
                       : mmap(NULL, sizeof *record, PROT_READ_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    record = mapped == (void *)-1 ? NULL : mapped;
}

static void note_site(uint64_t site)
{
    uint64_t count = __atomic_load_n(&record->count, __ATOMIC_RELAXED);
    for (uint64_t i = 0; i < count && i < SITES_MAX; i++)
        if (record->site[i] == site)
            return;
    count = __atomic_fetch_add(&record->count, 1, __ATOMIC_RELAXED);
    if (count < SITES_MAX)
        record->site[count] = site;
}

/* Records the call site whose return address is `address`. Returns whether the call must fail. */
static bool is_due(const void *address)
{
    if (!record)
        return false;
    uint64_t site = (uint64_t)((const char *)address - &__executable_start);
    uint64_t chosen = site;
    if (__atomic_compare_exchange_n(&record->chosen, &chosen, 0, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        return true;
    note_site(site);
    return false;
}

/* Defines a wrapper that passes seven arguments on. No wrapped function has more arguments, and a
 * function with fewer arguments ignores the rest. */
#define WRAPPER(name, failure, error)                                                              \
    long real_##name(long, long, long, long, long, long, long) __asm__(#name);                     \
    long faulty_##name(long, long, long, long, long, long, long);                                  \
    long faulty_##name(long a, long b, long c, long d, long e, long f, long g)                     \
    {                                                                                              \
        if (!is_due(__builtin_return_address(0)))                                                  \
            return real_##name(a, b, c, d, e, f, g);                                               \
        errno = error;                                                                             \
        return failure;                                                                            \
    }

CALLS(WRAPPER)
