/* Which descriptors the command gets. */
#include "fds.h"
#include "error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* The number that a name in /proc/self/fd is; -1 for "." and "..". */
static int fd_number(const char *name)
{
    int fd = 0;
    for (; *name >= '0' && *name <= '9'; name++)
        fd = fd * 10 + (*name - '0');
    return *name ? -1 : fd;
}

/* By what is open. readdir(3) would allocate. False if /proc does not tell. */
static bool close_listed(unsigned first, unsigned last)
{
    _Alignas(struct dirent64) char entries[1024];
    long size;
    int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return false;
    while ((size = syscall(SYS_getdents64, dir, entries, sizeof entries)) > 0) {
        const struct dirent64 *entry;
        for (long at = 0; at < size; at += entry->d_reclen) {
            entry = (const struct dirent64 *)(const void *)(entries + at);
            int fd = fd_number(entry->d_name);
            if (fd != dir && fd >= 0 && (unsigned)fd >= first && (unsigned)fd <= last)
                close(fd);
        }
    }
    close(dir);
    return size == 0;
}

static void close_range_of(unsigned first, unsigned last)
{
    if (first > last || !syscall(SYS_close_range, first, last, 0))
        return;
    /* Before Linux 5.9, or under a filter that does not know the call. Counting comes last: the
     * limit may be a billion, and what was opened before it was lowered is above it. */
    if (close_listed(first, last))
        return;
    struct rlimit limit;
    if (last == ~0U)
        last = getrlimit(RLIMIT_NOFILE, &limit) ? 65535 : (unsigned)limit.rlim_max - 1;
    for (unsigned fd = first; fd <= last; fd++)
        close((int)fd);
}

/* printf(3) is not async-signal-safe. */
static int fail_pass_on(int fd, struct un_error *err)
{
    char text[] = "descriptor ...........";
    char *at = text + sizeof text - 1;
    unsigned left = fd < 0 ? 0U - (unsigned)fd : (unsigned)fd;
    do {
        *--at = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    if (fd < 0)
        *--at = '-';
    memmove(text + strlen("descriptor "), at, strlen(at) + 1);
    return un_fail_errno(err, UN_STEP_FDS, text);
}

static int pass_on(int fd, struct un_error *err)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC))
        return fail_pass_on(fd, err);
    return 0;
}

int un_close_fds(const int *keep, size_t keep_count, struct un_error *err)
{
    unsigned first = 3;
    for (size_t i = 0; i < keep_count; i++) {
        if (pass_on(keep[i], err))
            return -1;
        if (keep[i] < 3)
            continue;
        if ((unsigned)keep[i] > first)
            close_range_of(first, (unsigned)keep[i] - 1);
        first = (unsigned)keep[i] + 1;
    }
    close_range_of(first, ~0U);
    return 0;
}

int un_place_stdio(const int stdio[3], struct un_error *err)
{
    int from[3];
    /* First out of the way: one that is to become 1 may stand where 0 is to come. */
    for (int to = 0; to < 3; to++) {
        from[to] = stdio[to];
        if (from[to] < 0 || from[to] > 2 || from[to] == to)
            continue;
        from[to] = fcntl(from[to], F_DUPFD_CLOEXEC, 3);
        if (from[to] < 0)
            return un_fail_errno(err, UN_STEP_STDIO, "");
    }
    for (int to = 0; to < 3; to++) {
        if (from[to] == to) {
            if (pass_on(to, err))
                return -1;
        } else if (from[to] >= 0 && dup2(from[to], to) < 0) {
            return un_fail_errno(err, UN_STEP_STDIO, "");
        }
    }
    return 0;
}
