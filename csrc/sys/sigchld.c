#include "base/base.h"
#include "sys/sys.h"

#include <sched.h>

struct call {
    int (*run)(void *arg, const uint64_t *signals);
    void *arg;
    const struct un_clone *clone;
};

static int call_in_child(void *arg)
{
    const struct call *call = arg;
    struct sigaction ignored;
    un_default_sigchld(&ignored);
    return call->run(call->arg, &call->clone->signals) ? 1 : 0;
}

static bool are_children_reaped_by_kernel(void)
{
    struct sigaction now;
    return !sigaction(SIGCHLD, NULL, &now) &&
           (now.sa_handler == SIG_IGN || now.sa_flags & SA_NOCLDWAIT);
}

int un_call_waiting(int (*run)(void *arg, const uint64_t *signals), void *arg, struct un_error *err)
{
    if (!are_children_reaped_by_kernel())
        return run(arg, NULL);
    struct call call = {.run = run, .arg = arg};
    /* The child has no exit signal. So the kernel does not reap it automatically, and threads that
     * wait for any child do not find it, unless they use __WALL. */
    struct un_clone clone = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
        .run = call_in_child,
        .arg = &call,
    };
    siginfo_t how;
    call.clone = &clone;
    if (un_clone(&clone))
        return un_fail_errno(err, UN_STEP_CLONE, "");
    bool known = un_reap(clone.pidfd, &how);
    close(clone.pidfd);
    if (known && how.si_code == CLD_EXITED)
        return how.si_status ? -1 : 0;
    return un_fail(err, UN_STEP_WAIT, 0, NULL,
                   "the process that waits for other programs was killed by signal %d",
                   how.si_status);
}

void un_default_sigchld(struct sigaction *before)
{
    const struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &action, before);
}
