#include "base/base.h"
#include "sys/sys.h"

#include <limits.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define NO_FLAG (-1L)
#define NO_FD (-1L)
#define NO_PID (-1L)
#define NO_SUCH_PID INT_MAX

/* A call that matters only if the filter kills: if the call fails with an error instead, the caller
 * handles or reports that. */
#define USED(call, ...) {SYS_##call, {__VA_ARGS__}, #call, UN_STEP_SANDBOX, DENIED, false}
/* A call whose denial by an error matters, too: the later failure of usernsctl or runsc would not
 * name the filter. */
#define NEEDED(call, ...) {SYS_##call, {__VA_ARGS__}, #call, UN_STEP_SANDBOX, DENIED, true}
#define DENIED "seccomp-denies-call"
#define MOUNT(number, name, ...)                                                                   \
    {number, {__VA_ARGS__}, name, UN_STEP_MOUNT, "mount-by-descriptor-missing", false}

/* Filters that deny unshare(2), such as those of container engines, deny others of these calls,
 * too, so unshare(2) comes first. The kernel never refuses unshare(0). */
static const struct un_probe_call launch_calls[] = {
    {SYS_unshare, {0}, "unshare", UN_STEP_UNSHARE, "seccomp-denies-userns", true},
    {SYS_mount, {0}, "mount", UN_STEP_MOUNT, "mount-denied", false},
    MOUNT(UN_SYS_OPEN_TREE, "open_tree", NO_FD, 0, NO_FLAG),
    MOUNT(UN_SYS_MOVE_MOUNT, "move_mount", NO_FD, 0, NO_FD, 0, NO_FLAG),
    MOUNT(UN_SYS_MOUNT_SETATTR, "mount_setattr", NO_FD, 0, NO_FLAG),
    /* usernsctl-watch starts runsc by clone3(2), and by clone(2) where that is denied. */
    {UN_SYS_CLONE3, {0}, "clone3", UN_STEP_CLONE, DENIED, false},
    {SYS_clone, {CLONE_THREAD}, "clone", UN_STEP_CLONE, DENIED, true},
    {SYS_ptrace, {NO_FLAG, NO_PID}, "ptrace", UN_STEP_SANDBOX, "ptrace-denied", true},
    {SYS_pivot_root, {0}, "pivot_root", UN_STEP_SANDBOX, "mount-denied", false},
    /* To build the root filesystem. */
    NEEDED(chdir, 0),
    NEEDED(mkdirat, NO_FD),
    NEEDED(symlinkat, 0, NO_FD),
    NEEDED(readlinkat, NO_FD),
    NEEDED(getrandom, 0, 0, NO_FLAG),
    NEEDED(uname, 0),
    NEEDED(capget, 0),
    NEEDED(capset, 0),
    NEEDED(prctl, PR_SET_PDEATHSIG, NO_FLAG),
#ifdef SYS_chmod /* AArch64 has only the newer forms of these calls. */
    NEEDED(chmod, 0),
    NEEDED(mkdir, 0),
    NEEDED(readlink, 0),
    USED(poll, 0, NO_FLAG),
#endif
    USED(copy_file_range, NO_FD, 0, NO_FD, 0, 0, NO_FLAG),
    USED(unlinkat, NO_FD, 0, NO_FLAG),
    USED(umask, 0),
    /* To run runsc. */
    NEEDED(wait4, NO_PID, 0, NO_FLAG),
    NEEDED(waitid, 0, 0, 0, NO_FLAG),
    NEEDED(setsid, 0),
    NEEDED(setuid, NO_FLAG),
    NEEDED(setgid, NO_FLAG),
    NEEDED(chroot, 0),
    NEEDED(umount2, 0, NO_FLAG),
    NEEDED(seccomp, NO_FLAG),
    NEEDED(socket, AF_UNIX, NO_FLAG),
    NEEDED(socketpair, AF_UNIX, NO_FLAG),
    NEEDED(bind, NO_FD),
    NEEDED(listen, NO_FD),
    NEEDED(accept4, NO_FD),
    NEEDED(connect, NO_FD),
    NEEDED(sendmsg, NO_FD),
    NEEDED(recvmsg, NO_FD),
    NEEDED(shutdown, NO_FD),
    NEEDED(pipe2, 0, NO_FLAG),
    NEEDED(dup3, NO_FD, NO_FD, NO_FLAG),
    NEEDED(flock, NO_FD, LOCK_UN),
    NEEDED(ftruncate, NO_FD),
    NEEDED(faccessat, NO_FD, 0, NO_FLAG),
    NEEDED(memfd_create, 0, NO_FLAG),
    NEEDED(eventfd2, 0, NO_FLAG),
    NEEDED(epoll_create1, NO_FLAG),
    NEEDED(epoll_ctl, NO_FD, EPOLL_CTL_DEL, NO_FD),
    NEEDED(epoll_pwait, NO_FD),
    NEEDED(ppoll, 0, NO_FLAG),
    NEEDED(kill, NO_SUCH_PID),
    NEEDED(tgkill, NO_PID, NO_PID),
    NEEDED(sigaltstack, 0),
    USED(fstatfs, NO_FD),
    USED(getpgid, 0),
    USED(getppid, 0),
    USED(rt_sigtimedwait, 0),
    USED(nanosleep, 0),
    USED(sched_getaffinity, 0),
    USED(sched_yield, 0),
    USED(madvise, 1),
    USED(membarrier, NO_FLAG, NO_FLAG),
};

/* Only a filter that kills matters here. With an invalid flag, unshare(2) fails, and changes
 * nothing.
 */
static const struct un_probe_call enter_calls[] = {
    {SYS_unshare,
     {CLONE_NEWUSER | CLONE_NEWNS | 1},
     "unshare",
     UN_STEP_UNSHARE,
     "seccomp-denies-userns",
     false},
    USED(getpid, 0),
    {UN_SYS_PIDFD_OPEN, {NO_PID}, "pidfd_open", UN_STEP_CLONE, DENIED, false},
    {UN_SYS_PIDFD_SEND_SIGNAL, {NO_FD}, "pidfd_send_signal", UN_STEP_CLONE, DENIED, false},
    {UN_SYS_CLOSE_RANGE, {1, 0}, "close_range", UN_STEP_CLONE, DENIED, false},
    USED(socketpair, AF_UNIX, NO_FLAG),
    USED(sendmsg, NO_FD),
    USED(recvmsg, NO_FD),
#ifdef SYS_poll
    USED(poll, 0, NO_FLAG),
#endif
};

static const struct un_probe_call join_calls[] = {
    {SYS_setns, {NO_FD}, "setns", UN_STEP_SETNS, "seccomp-denies-userns", false}};

#define LIST(calls) {calls, sizeof(calls) / sizeof(calls)[0]}

const struct un_probe_calls un_launch_calls = LIST(launch_calls);
const struct un_probe_calls un_enter_calls = LIST(enter_calls);
const struct un_probe_calls un_join_calls = LIST(join_calls);

/* Returns whether a filter has denied the last call. For these arguments, the kernel itself returns
 * none of these errors, which are the usual ones of filters: systemd returns EAFNOSUPPORT for
 * RestrictAddressFamilies=. */
static bool is_denied(long result)
{
    return result < 0 &&
           (errno == EPERM || errno == EACCES || errno == ENOSYS || errno == EAFNOSUPPORT);
}

static _Noreturn void try_in_child(const struct un_probe_call *calls, size_t count)
{
    /* A filter that kills this child must not cause a core dump. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    signal(SIGSYS, SIG_DFL);
    for (size_t i = 0; i < count; i++) {
        const long *with = calls[i].argument;
        long result =
            syscall(calls[i].number, with[0], with[1], with[2], with[3], with[4], with[5]);
        if (calls[i].is_needed && is_denied(result))
            _exit((int)i + 1);
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

/* Waits for a child that has tried the calls. Returns false if they can't be tried. */
static bool try_calls(const struct un_probe_call *calls, size_t count, siginfo_t *how)
{
    pid_t child = would_be_first() ? -1 : start_child(calls, count);
    int failed = child < 0 ? -1 : 0;
    while (child > 0 && (failed = waitid(P_PID, (id_t)child, how, WEXITED | __WALL)) &&
           errno == EINTR)
        continue;
    return !failed;
}

static bool is_lethal(const struct un_probe_call *calls, size_t count)
{
    siginfo_t how;
    return try_calls(calls, count, &how) && how.si_code != CLD_EXITED && how.si_status == SIGSYS;
}

static bool fail_call(const struct un_probe_call *call, const char *how, struct un_error *err)
{
    un_fail(err, call->step, 0, call->cause, how, call->name);
    return true;
}

bool un_filter_forbids(const struct un_probe_calls *calls, struct un_error *err)
{
    siginfo_t how;
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER ||
        !try_calls(calls->call, calls->count, &how))
        return false;
    if (how.si_code == CLD_EXITED)
        return how.si_status &&
               fail_call(&calls->call[how.si_status - 1], "a seccomp filter denies %s(2)", err);
    for (size_t i = 0; i < calls->count; i++)
        if (is_lethal(&calls->call[i], 1))
            return fail_call(&calls->call[i], "a seccomp filter kills callers of %s(2)", err);
    return false;
}
