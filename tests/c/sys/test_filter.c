/* Tests of detecting system calls that a seccomp filter forbids. If a filter kills callers of a
 * system call, it must kill only a child of the test's process, not the process itself. */
#include "check.h"
#include "forked.h"
#include "seccomp.h"
#include "sys/sys.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static struct un_error err;

static volatile sig_atomic_t is_signalled;

static pid_t own;
static int *elsewhere; /* number of signals that were handled in a process other than the test's;
                          must stay 0 */

static void count_signal_elsewhere(int number)
{
    (void)number;
    if (getpid() != own)
        __atomic_add_fetch(elsewhere, 1, __ATOMIC_SEQ_CST);
}

static void count_signal(int number)
{
    (void)number;
    is_signalled = 1;
}

static void check_survives_all(void)
{
    CHECK(!un_filter_forbids(&un_launch_calls, &err));
    CHECK(!un_filter_forbids(&un_enter_calls, &err));
    CHECK(!un_filter_forbids(&un_join_calls, &err));
}

static void without_filter(void)
{
    check_survives_all();
}

/* Checks that a filter that makes mount(2) fail with EPERM is accepted: when the launch calls
 * mount(2), it reports the error itself. */
static void with_refusal(void)
{
    filter_call(SYS_mount, SECCOMP_RET_ERRNO | 1);
    check_survives_all();
}

/* Checks that a filter is rejected if it makes accept4(2) fail with the errno *arg, because runsc
 * needs accept4(2). */
static int with_refusal_of_needed(void *arg)
{
    filter_call(SYS_accept4, SECCOMP_RET_ERRNO | *(unsigned *)arg);
    CHECK(un_filter_forbids(&un_launch_calls, &err));
    CHECK_TEXT(err.cause, "seccomp-denies-call");
    CHECK_TEXT(err.detail, "a seccomp filter denies accept4(2)");
    CHECK(!un_filter_forbids(&un_enter_calls, &err));
    check_no_child_left();
    return 0;
}

/* Checks that a filter is rejected if it denies calls such as unshare(2) that a launch needs, as
 * the default filters of container engines do. */
static void with_engine(void)
{
    filter_call(SYS_umount2, SECCOMP_RET_ERRNO | EPERM);
    filter_call(SYS_unshare, SECCOMP_RET_ERRNO | EPERM);
    CHECK(un_filter_forbids(&un_launch_calls, &err));
    CHECK_TEXT(err.cause, "seccomp-denies-userns");
    CHECK_TEXT(err.detail, "a seccomp filter denies unshare(2)");
}

static int with_killer(void *arg)
{
    signal(SIGCHLD, count_signal);
    filter_call(SYS_mount, *(unsigned *)arg);
    CHECK(un_filter_forbids(&un_launch_calls, &err));
    CHECK_INT(err.step, UN_STEP_MOUNT);
    CHECK_TEXT(err.cause, "mount-denied");
    CHECK_HAS(err.detail, "kills callers of mount(2)");
    CHECK(!un_filter_forbids(&un_enter_calls, &err));
    CHECK(!un_filter_forbids(&un_join_calls, &err));
    CHECK_INT(is_signalled, 0);
    check_no_child_left();
    return 0;
}

/* Checks that a filter is detected even if SIGCHLD is ignored. The kernel then reaps children whose
 * exit signal is SIGCHLD, and discards their exit status. */
static int with_ignored_children(void *arg)
{
    signal(SIGCHLD, SIG_IGN);
    filter_call(SYS_setns, *(unsigned *)arg);
    CHECK(un_filter_forbids(&un_join_calls, &err));
    CHECK_TEXT(err.cause, "seccomp-denies-userns");
    return 0;
}

/* Checks that a filter is detected even if it kills callers of wait4(2) or waitid(2), with which a
 * parent waits for the child that tries the calls. That child may stay a zombie. */
static int with_killed_wait(void *arg)
{
    const char *expected =
        *(unsigned *)arg == SYS_wait4 ? "kills callers of wait4(2)" : "kills callers of waitid(2)";
    filter_call(*(unsigned *)arg, SECCOMP_RET_KILL_PROCESS);
    CHECK(un_filter_forbids(&un_launch_calls, &err));
    CHECK_HAS(err.detail, expected);
    CHECK_TEXT(err.cause, "seccomp-denies-call");
    return 0;
}

static void with_killed_fork(void)
{
#ifdef SYS_fork
    filter_call(SYS_fork, SECCOMP_RET_KILL_PROCESS);
#endif
    check_survives_all();
    pid_t child = un_fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(7);
    CHECK_INT(wait_for(child), 7);
}

static _Noreturn void signal_all(void)
{
    pid_t parent = getppid();
    signal(SIGUSR1, SIG_IGN);
    while (getppid() == parent)
        kill(0, SIGUSR1);
    _exit(0);
}

/* Checks that a signal to the process group, as a terminal sends it, is handled only in the test's
 * process. */
static void with_signals(void)
{
    CHECK_INT(setpgid(0, 0), 0);
    own = getpid();
    elsewhere =
        mmap(NULL, sizeof *elsewhere, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(elsewhere != MAP_FAILED);
    signal(SIGUSR1, count_signal_elsewhere);
    filter_call(SYS_mount, SECCOMP_RET_ERRNO | 1);
    pid_t sender = fork();
    if (sender == 0)
        signal_all();
    for (int i = 0; i < 200; i++)
        CHECK(!un_filter_forbids(&un_launch_calls, &err));
    CHECK_INT(kill(sender, SIGKILL), 0);
    CHECK_INT(wait_for(sender), 128 + SIGKILL);
    CHECK_INT(*elsewhere, 0);
}

/* Checks that the child that tries the calls does not become PID 1 of a new PID namespace. Such a
 * namespace would end when the child exits. */
static void with_children_elsewhere(void)
{
    CHECK_INT(unshare(CLONE_NEWUSER | CLONE_NEWPID), 0);
    filter_call(SYS_mount, SECCOMP_RET_KILL_PROCESS);
    CHECK(!un_filter_forbids(&un_launch_calls, &err));
    pid_t first = fork();
    CHECK(first >= 0);
    if (first == 0)
        _exit(getpid() == 1 ? 0 : 1);
    CHECK_INT(wait_for(first), 0);
}

int main(void)
{
    unsigned killers[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP};
    unsigned errnums[] = {EPERM, EACCES, ENOSYS, EAFNOSUPPORT};
    check_in_child(without_filter);
    check_in_child(with_refusal);
    check_in_child(with_engine);
    for (size_t i = 0; i < COUNT(errnums); i++)
        CHECK_INT(forked(with_refusal_of_needed, &errnums[i]), 0);
    CHECK_INT(forked(with_killed_wait, &(unsigned){SYS_wait4}), 0);
    CHECK_INT(forked(with_killed_wait, &(unsigned){SYS_waitid}), 0);
    check_in_child(with_killed_fork);
    check_in_child(with_signals);
    check_in_child(with_children_elsewhere);
    for (size_t i = 0; i < COUNT(killers); i++) {
        CHECK_INT(forked(with_killer, &killers[i]), 0);
        CHECK_INT(forked(with_ignored_children, &killers[i]), 0);
    }
    return 0;
}
