/* Making, keeping and entering namespaces. */
#include "clone.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static const struct {
    uint64_t flag;
    const char *file; /* in /proc/PID */
} kinds[UN_NS_COUNT] = {
    [UN_NS_USER] = {CLONE_NEWUSER, "ns/user"},
    [UN_NS_MOUNT] = {CLONE_NEWNS, "ns/mnt"},
    [UN_NS_NET] = {CLONE_NEWNET, "ns/net"},
    [UN_NS_PID] = {CLONE_NEWPID, "ns/pid"},
    [UN_NS_IPC] = {CLONE_NEWIPC, "ns/ipc"},
    [UN_NS_UTS] = {CLONE_NEWUTS, "ns/uts"},
    [UN_NS_CGROUP] = {CLONE_NEWCGROUP, "ns/cgroup"},
    /* A child enters the namespace that its parent chose for its children. */
    [UN_NS_TIME] = {CLONE_NEWTIME, "ns/time_for_children"},
};

uint64_t un_ns_flag(int ns)
{
    return kinds[ns].flag;
}

void un_namespace_close(struct un_namespace *ns)
{
    for (int kind = 0; kind < UN_NS_COUNT; kind++) {
        if (ns->fd[kind] >= 0)
            close(ns->fd[kind]);
        ns->fd[kind] = -1;
    }
}

int un_namespace_join(const struct un_namespace *ns, struct un_error *err)
{
    /* The user namespace comes first: the right to join the others is had there. */
    for (int kind = 0; kind < UN_NS_COUNT; kind++)
        if (ns->fd[kind] >= 0 && setns(ns->fd[kind], (int)kinds[kind].flag))
            return un_fail_errno(err, UN_STEP_SETNS, kinds[kind].file);
    return 0;
}

static int open_all(int dir, uint64_t flags, struct un_namespace *ns, struct un_error *err)
{
    for (int kind = 0; kind < UN_NS_COUNT; kind++) {
        if (!(flags & kinds[kind].flag))
            continue;
        ns->fd[kind] = openat(dir, kinds[kind].file, O_RDONLY | O_CLOEXEC);
        if (ns->fd[kind] < 0)
            return un_fail_errno(err, UN_STEP_FACTS, kinds[kind].file);
    }
    return 0;
}

/*
 * What the holder does: nothing, until it is killed. It shares our memory, errno included, so it
 * makes no call that can fail: pause() would, if a signal got through; all are blocked.
 */
static int hold(void *arg)
{
    const pid_t *creator = arg;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* Who died before that prctl never sends the signal. */
    if (getppid() != *creator)
        return 0;
    for (;;)
        pause();
}

static int map_and_open(pid_t holder, const struct un_plan *plan, uint64_t flags,
                        struct un_namespace *ns, struct un_error *err)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", (int)holder);
    int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return un_fail_errno(err, UN_STEP_FACTS, path);
    int failed = un_write_maps(dir, plan, err) || un_run_helpers(dir, holder, plan, err) ||
                 un_verify_maps(dir, plan, err) || open_all(dir, flags, ns, err);
    close(dir);
    return failed ? -1 : 0;
}

int un_namespace_create(const struct un_plan *plan, uint64_t flags, struct un_namespace *ns,
                        struct un_error *err)
{
    _Alignas(16) char stack[4096 * 4];
    pid_t self = getpid();
    struct un_clone clone = {
        .flags = flags | CLONE_NEWUSER | CLONE_VM,
        .stack = stack,
        .stack_size = sizeof stack,
        .run = hold,
        .arg = &self,
    };

    memset(ns->fd, 0xff, sizeof ns->fd);
    if (flags & CLONE_NEWPID)
        return un_fail(err, UN_STEP_ARGUMENT, EINVAL, NULL,
                       "a PID namespace ends with its first process, so it can't be kept");
    if (un_clone(&clone))
        return un_explain_clone(err, UN_STEP_CLONE, flags | CLONE_NEWUSER);
    int failed = map_and_open(clone.pid, plan, flags | CLONE_NEWUSER, ns, err);
    kill(clone.pid, SIGKILL);
    while (waitpid(clone.pid, NULL, __WALL) < 0 && errno == EINTR)
        continue;
    if (failed)
        un_namespace_close(ns);
    return failed ? -1 : 0;
}

/* One thread can't be in another user namespace than the rest of its process: EINVAL. */
int un_explain_clone(struct un_error *err, enum un_step step, uint64_t flags)
{
    un_fail_errno(err, step, "");
    int threads = un_thread_count();
    if (step != UN_STEP_CLONE && err->errnum == EINVAL && flags & CLONE_NEWUSER && threads > 1)
        return un_fail(err, step, EINVAL, "multithreaded", "this process has %d threads", threads);
    return -1;
}

static int enter_and_write(const struct un_plan *plan, uint64_t flags, struct un_error *err)
{
    if (unshare((int)(flags | CLONE_NEWUSER)))
        return un_explain_clone(err, UN_STEP_UNSHARE, flags | CLONE_NEWUSER);
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self < 0)
        return un_fail_errno(err, UN_STEP_FACTS, "/proc/self");
    int failed = un_write_maps(self, plan, err);
    close(self);
    return failed;
}

/* Somebody outside has to write the map: make the namespace with a holder in it, then follow. */
static int create_and_join(const struct un_plan *plan, uint64_t flags, struct un_error *err)
{
    struct un_namespace ns;
    if (un_namespace_create(plan, 0, &ns, err))
        return -1;
    int failed = un_namespace_join(&ns, err);
    if (failed && err->errnum == EINVAL) {
        errno = EINVAL;
        un_explain_clone(err, UN_STEP_SETNS, CLONE_NEWUSER);
    }
    un_namespace_close(&ns);
    if (failed)
        return -1;
    if (flags && unshare((int)flags))
        return un_fail_errno(err, UN_STEP_UNSHARE, "");
    return 0;
}

int un_enter(const struct un_plan *plan, uint64_t flags, struct un_error *err)
{
    if (plan && un_plan_writes_itself(plan))
        return enter_and_write(plan, flags, err);
    if (plan)
        return create_and_join(plan, flags, err);
    if (flags && unshare((int)flags))
        return un_fail_errno(err, UN_STEP_UNSHARE, "");
    return 0;
}
