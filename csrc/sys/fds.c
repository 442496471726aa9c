/* Closing descriptors and passing descriptors to a command. */
#include "base/base.h"
#include "sys/sys.h"

#include <dirent.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4U
#endif

/* Converts a name in /proc/self/fd to a number. Returns -1 for "." and "..". */
static int fd_number(const char *name)
{
    uint64_t fd;
    const char *end = un_number_read(name, INT_MAX, &fd);
    return end && !*end ? (int)fd : -1;
}

/* The time at which descriptors are closed: now, or at the next execve(2). */
enum what { CLOSE, CLOSE_AT_EXEC };

/* Closes a descriptor, or sets close-on-exec on it, as `what` selects. Ignores failures, because
 * fcntl(2) fails only if the descriptor is not open. */
static void close_one(int fd, enum what what)
{
    if (what == CLOSE)
        close(fd);
    else
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* Closes the descriptors from `first` to `last` that are listed in /proc/self/fd. Uses
 * getdents64(2), because readdir(3) allocates memory. Returns false if /proc/self/fd can't be read
 * or is not on procfs. */
static bool close_listed(unsigned first, unsigned last, enum what what)
{
    _Alignas(struct dirent) char entries[1024];
    struct statfs fs;
    long size = -1;
    un_auto_close int dir = openat(AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return false;
    bool is_real = !fstatfs(dir, &fs) && (uint64_t)fs.f_type == PROC_SUPER_MAGIC;
    while (is_real && (size = syscall(SYS_getdents64, dir, entries, sizeof entries)) > 0) {
        const struct dirent *entry;
        for (long at = 0; at < size; at += entry->d_reclen) {
            entry = (const struct dirent *)(const void *)(entries + at);
            int fd = fd_number(entry->d_name);
            if (fd != dir && fd >= 0 && (unsigned)fd >= first && (unsigned)fd <= last)
                close_one(fd, what);
        }
    }
    return size == 0;
}

static bool close_range_now(unsigned first, unsigned last, unsigned flags)
{
    return !syscall(UN_SYS_CLOSE_RANGE, first, last, flags);
}

void un_close_each(const int *fd, size_t count)
{
    for (size_t i = 0, next; i < count; i = next) {
        for (next = i + 1; next < count && fd[next] > 0 && fd[next] == fd[next - 1] + 1;)
            next++;
        bool is_row = next - i > 1;
        if (is_row && close_range_now((unsigned)fd[i], (unsigned)fd[next - 1], 0))
            continue;
        for (; i < next; i++)
            if (fd[i] >= 0)
                close(fd[i]);
    }
}

static void close_from_to(unsigned first, unsigned last, enum what what)
{
    unsigned flags = what == CLOSE ? 0 : CLOSE_RANGE_CLOEXEC;
    if (first > last || close_range_now(first, last, flags))
        return;
    /* close_range(2) failed because the kernel lacks the call (before Linux 5.9) or the flag
     * CLOSE_RANGE_CLOEXEC (before 5.11), or because a seccomp filter denies the call. Closing every
     * number up to RLIMIT_NOFILE is the last resort. The limit may be a billion, and after the
     * limit was lowered, descriptors above it may be open. */
    if (close_listed(first, last, what))
        return;
    struct rlimit limit;
    if (last == ~0U)
        last = getrlimit(RLIMIT_NOFILE, &limit) ? 65535 : (unsigned)limit.rlim_max - 1;
    for (unsigned fd = first; fd <= last; fd++)
        close_one((int)fd, what);
}

/* Fills in the error of a failed call on a descriptor. Formats the number itself, because printf(3)
 * is not async-signal-safe. */
static int fail_descriptor(enum un_step step, int fd, struct un_error *err)
{
    char text[sizeof "descriptor -2147483648"] = "descriptor -";
    char *at = text + strlen("descriptor ") + (fd < 0);
    un_number_write(at, fd < 0 ? 0U - (unsigned)fd : (unsigned)fd);
    return un_fail_errno(err, step, text);
}

static int clear_cloexec(int fd, struct un_error *err)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC))
        return fail_descriptor(UN_STEP_FDS, fd, err);
    return 0;
}

static int close_others(unsigned first, const int *keep, size_t keep_count, enum what what,
                        struct un_error *err)
{
    for (size_t i = 0; i < keep_count; i++) {
        if (clear_cloexec(keep[i], err))
            return -1;
        if (keep[i] < 3)
            continue;
        if ((unsigned)keep[i] > first)
            close_from_to(first, (unsigned)keep[i] - 1, what);
        first = (unsigned)keep[i] + 1;
    }
    close_from_to(first, ~0U, what);
    return 0;
}

static int compare_fds(const void *a, const void *b)
{
    const int *left = a, *right = b;
    return (*left > *right) - (*left < *right);
}

size_t un_sort_fds(int *fds, size_t count)
{
    size_t unique = 0;
    qsort(fds, count, sizeof *fds, compare_fds);
    for (size_t i = 0; i < count; i++)
        if (!unique || fds[unique - 1] != fds[i])
            fds[unique++] = fds[i];
    return unique;
}

int un_close_fds(const int *keep, size_t keep_count, struct un_error *err)
{
    return close_others(3, keep, keep_count, CLOSE, err);
}

int un_close_fds_at_exec(const int *keep, size_t keep_count, struct un_error *err)
{
    return close_others(3, keep, keep_count, CLOSE_AT_EXEC, err);
}

void un_close_all_fds_at_exec(void)
{
    close_from_to(0, ~0U, CLOSE_AT_EXEC);
}

#define ROOM 512

void un_make_fd_room(void)
{
    /* Use O_PATH, so that nothing can be read from the descriptor or written to it. */
    un_auto_close int nothing = openat(AT_FDCWD, "/dev/null", O_PATH);
    if (nothing < 0)
        return;
    fcntl(nothing, F_DUPFD, ROOM - 1);
}

int un_place_stdio(const int stdio[3], struct un_error *err)
{
    int from[3];
    /* First duplicate the sources below 3 to higher numbers. Otherwise dup2(2) to descriptor 0, for
     * example, could overwrite the source of descriptor 1. */
    for (int to = 0; to < 3; to++) {
        from[to] = stdio[to];
        if (from[to] < 0 || from[to] > 2 || from[to] == to)
            continue;
        from[to] = fcntl(from[to], F_DUPFD_CLOEXEC, 3);
        if (from[to] < 0)
            return fail_descriptor(UN_STEP_STDIO, stdio[to], err);
    }
    for (int to = 0; to < 3; to++) {
        if (from[to] == to) {
            if (clear_cloexec(to, err))
                return -1;
            continue;
        }
        /* gcc's analyzer assumes that dup2(2) creates another descriptor, which it reports as a
         * leak.
         * NOLINTNEXTLINE(analyzer-fd-leak) */
        if (from[to] >= 0 && dup2(from[to], to) < 0)
            return fail_descriptor(UN_STEP_STDIO, from[to], err);
    }
    return 0;
}
