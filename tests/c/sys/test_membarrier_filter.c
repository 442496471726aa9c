/* Tests of the seccomp filter for membarrier(2). The registration for private expedited membarriers
 * must return success without any effect, and no other call may change. */
#include "check.h"
#include "forked.h"
#include "sys/sys.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The commands of membarrier(2), from linux/membarrier.h. */
enum {
    QUERY = 0,
    REGISTER_GLOBAL_EXPEDITED = 1 << 2,
    PRIVATE_EXPEDITED = 1 << 3,
    REGISTER_PRIVATE_EXPEDITED = 1 << 4,
    UNKNOWN = 1 << 30
};

static long membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0);
}

static bool has_filter(void)
{
    return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2;
}

static void registration_is_denied(void)
{
    long query = membarrier(QUERY);
    bool had_filter = has_filter();
    CHECK_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    un_add_membarrier_filter();
#if defined(__x86_64__) || defined(__aarch64__)
    CHECK(has_filter());
    if (query & REGISTER_PRIVATE_EXPEDITED) {
        CHECK_INT(membarrier(REGISTER_PRIVATE_EXPEDITED), 0);
        CHECK_INT(membarrier(PRIVATE_EXPEDITED), -1);
        CHECK_INT(errno, EPERM);
    }
#else
    CHECK_INT(has_filter(), had_filter);
#endif
    (void)had_filter;
    CHECK_INT(membarrier(QUERY), query);
    if (query & REGISTER_GLOBAL_EXPEDITED)
        CHECK_INT(membarrier(REGISTER_GLOBAL_EXPEDITED), 0);
    CHECK_INT(membarrier(UNKNOWN), -1);
    CHECK_INT(syscall(SYS_getpid), getpid());
}

static int registration_works_without_the_filter(void *arg)
{
    (void)arg;
    if (!(membarrier(QUERY) & REGISTER_PRIVATE_EXPEDITED))
        return 0;
    CHECK_INT(membarrier(REGISTER_PRIVATE_EXPEDITED), 0);
    CHECK_INT(membarrier(PRIVATE_EXPEDITED), 0);
    return 0;
}

static int without_the_capability_nothing_changes(void *arg)
{
    int user = *(int *)arg;
    /* Root may install filters without no_new_privs, so drop root's privileges. */
    if (geteuid() == 0 && setresuid((uid_t)user, (uid_t)user, (uid_t)user))
        return 0;
    bool had_filter = has_filter();
    un_add_membarrier_filter();
    CHECK_INT(has_filter(), had_filter);
    return registration_works_without_the_filter(NULL);
}

int main(void)
{
    int nobody = 65534;
    check_in_child(registration_is_denied);
    CHECK_INT(forked(registration_works_without_the_filter, NULL), 0);
    CHECK_INT(forked(without_the_capability_nothing_changes, &nobody), 0);
}
