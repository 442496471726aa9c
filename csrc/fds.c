/* Which descriptors the command gets. */
#include "fds.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static void close_range_of(unsigned first, unsigned last)
{
    if (first > last || !syscall(SYS_close_range, first, last, 0))
        return;
    /* Before Linux 5.9, or under a filter that does not know the call. */
    struct rlimit limit;
    if (last == ~0U)
        last = getrlimit(RLIMIT_NOFILE, &limit) ? 65535 : (unsigned)limit.rlim_max - 1;
    for (unsigned fd = first; fd <= last; fd++)
        close((int)fd);
}

static int pass_on(int fd, struct un_error *err)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC))
        return un_fail_errno(err, UN_STEP_FDS, "a descriptor to be passed on is not open");
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
