#include "base/base.h"
#include "sys/sys.h"

#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define NO_FLAG (-1L)
#define NO_FD (-1L)

const struct un_probe_call un_mount_calls[] = {
    {SYS_mount, {0}, "mount", UN_STEP_MOUNT, "mount-denied"},
    {UN_SYS_OPEN_TREE,
     {NO_FD, 0, NO_FLAG},
     "open_tree",
     UN_STEP_MOUNT,
     "mount-by-descriptor-missing"},
    {UN_SYS_MOVE_MOUNT,
     {NO_FD, 0, NO_FD, 0, NO_FLAG},
     "move_mount",
     UN_STEP_MOUNT,
     "mount-by-descriptor-missing"},
    {UN_SYS_MOUNT_SETATTR,
     {NO_FD, 0, NO_FLAG},
     "mount_setattr",
     UN_STEP_MOUNT,
     "mount-by-descriptor-missing"},
    /* usernsctl-watch starts runsc by clone3(2). */
    {UN_SYS_CLONE3, {0}, "clone3", UN_STEP_CLONE, "seccomp-denies-call"},
};

/* The invalid flag 1 makes the kernel fail with EINVAL; filters check only the valid flags. */
const struct un_probe_call un_unshare_call[] = {{SYS_unshare,
                                                 {CLONE_NEWUSER | CLONE_NEWNS | 1},
                                                 "unshare",
                                                 UN_STEP_UNSHARE,
                                                 "seccomp-denies-userns"}};

const struct un_probe_call un_setns_call[] = {
    {SYS_setns, {NO_FD}, "setns", UN_STEP_SETNS, "seccomp-denies-userns"}};

static _Noreturn void try_in_child(const struct un_probe_call *calls, size_t count)
{
    /* A filter that kills this child must not cause a core dump. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    signal(SIGSYS, SIG_DFL);
    for (size_t i = 0; i < count; i++) {
        const long *with = calls[i].argument;
        syscall(calls[i].number, with[0], with[1], with[2], with[3], with[4]);
    }
    _exit(0);
}

/* Returns whether a child would become process 1 of a PID namespace, whose end would be the end of
 * the namespace. Until process 1 exists, stat(2) of ns/pid_for_children fails
 * (pidns_for_children_get()). */
static bool would_be_first(void)
{
    struct stat status;
    return stat("/proc/thread-self/ns/pid", &status) == 0 &&
           stat("/proc/thread-self/ns/pid_for_children", &status) != 0;
}

/* Forks a child with all signals blocked, so that handlers of this process don't run in the child.
 * The child has no exit signal, so that neither a SIGCHLD handler nor a wait for any child notices
 * it. */
static pid_t start_child(const struct un_probe_call *calls, size_t count)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t child = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (child == 0)
        try_in_child(calls, count);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return child;
}

/* Returns whether one of the calls kills its caller; also false if the calls can't be tried. */
static bool kills_caller(const struct un_probe_call *calls, size_t count)
{
    int status;
    pid_t child = would_be_first() ? -1 : start_child(calls, count), ended;
    if (child < 0)
        return false;
    while ((ended = waitpid(child, &status, __WALL)) < 0 && errno == EINTR)
        continue;
    return ended == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

bool un_filter_is_lethal(const struct un_probe_call *calls, size_t count, struct un_error *err)
{
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER || !kills_caller(calls, count))
        return false;
    for (size_t i = 0; i < count; i++)
        if (kills_caller(&calls[i], 1))
            return un_fail(err, calls[i].step, 0, calls[i].cause,
                           "a seccomp filter kills callers of %s(2)", calls[i].name);
    return false;
}
