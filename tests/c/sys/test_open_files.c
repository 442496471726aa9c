/* Tests of un_limit_open_files(), which lowers RLIMIT_NOFILE to at most a given number. */
#include "forked.h"
#include "sys/sys.h"

#include <fcntl.h>
#include <sys/resource.h>

static int limit_is(rlim_t soft, rlim_t hard)
{
    struct rlimit limit;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK(limit.rlim_cur == soft && limit.rlim_max == hard);
    return 0;
}

static int higher_limits_are_lowered(void *arg)
{
    (void)arg;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &(struct rlimit){200, 300}), 0);
    CHECK_INT(un_limit_open_files(100), 0);
    CHECK_INT(fcntl(0, F_DUPFD, 100), -1);
    return limit_is(100, 100);
}

static int the_hard_limit_alone_may_be_higher(void *arg)
{
    (void)arg;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &(struct rlimit){50, 300}), 0);
    CHECK_INT(un_limit_open_files(100), 0);
    return limit_is(50, 100);
}

static int lower_limits_stay(void *arg)
{
    (void)arg;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &(struct rlimit){50, 60}), 0);
    CHECK_INT(un_limit_open_files(100), 0);
    return limit_is(50, 60);
}

int main(void)
{
    CHECK_INT(forked(higher_limits_are_lowered, NULL), 0);
    CHECK_INT(forked(the_hard_limit_alone_may_be_higher, NULL), 0);
    CHECK_INT(forked(lower_limits_stay, NULL), 0);
    return 0;
}
