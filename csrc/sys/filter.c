#include "base/base.h"
#include "sys/sys.h"

#include <limits.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define NO_FLAG (-1L)
#define NO_FD (-1L)
#define NO_PID (-1L)
#define NO_SUCH_PID INT_MAX

/* A system call whose failure the calling program handles or reports. The call counts as forbidden
 * only if a filter kills the caller. */
#define USED(call, ...) {SYS_##call, {__VA_ARGS__}, #call, UN_STEP_SANDBOX, DENIED, false}
/* A system call that counts as forbidden even if a filter only returns an error, because a later
 * failure of usernsctl or runsc would not name the filter. */
#define NEEDED(call, ...) {SYS_##call, {__VA_ARGS__}, #call, UN_STEP_SANDBOX, DENIED, true}
#define DENIED "seccomp-denies-call"
/* clone3(2), which may fail, because un_clone() then calls clone(2). */
#define CLONE3 {UN_SYS_CLONE3, {0}, "clone3", UN_STEP_CLONE, DENIED, false}
#define MOUNT(number, name, ...)                                                                   \
    {number, {__VA_ARGS__}, name, UN_STEP_MOUNT, "mount-by-descriptor-missing", false}

/* The system calls of usernsctl, runsc and gVisor for starting a sandbox. unshare(2) comes first,
 * so that errors name unshare(2): filters that deny it, such as those of container engines, also
 * deny other calls in this list. The kernel itself never denies unshare(0). */
static const struct un_probe_call launch_calls[] = {
    {SYS_unshare, {0}, "unshare", UN_STEP_UNSHARE, "seccomp-denies-userns", true},
    {SYS_mount, {0}, "mount", UN_STEP_MOUNT, "mount-denied", false},
    MOUNT(UN_SYS_OPEN_TREE, "open_tree", NO_FD, 0, NO_FLAG),
    MOUNT(UN_SYS_MOVE_MOUNT, "move_mount", NO_FD, 0, NO_FD, 0, NO_FLAG),
    MOUNT(UN_SYS_MOUNT_SETATTR, "mount_setattr", NO_FD, 0, NO_FLAG),
    /* usernsctl-watch starts runsc by clone3(2), or by clone(2) if clone3(2) is denied. */
    CLONE3,
    {SYS_clone, {CLONE_THREAD}, "clone", UN_STEP_CLONE, DENIED, true},
    {SYS_ptrace, {NO_FLAG, NO_PID}, "ptrace", UN_STEP_SANDBOX, "ptrace-denied", true},
    {SYS_pivot_root, {0}, "pivot_root", UN_STEP_SANDBOX, "mount-denied", false},
    /* The calls that build the root filesystem. */
    NEEDED(chdir, 0),
    NEEDED(getcwd, 0, 1),
    USED(clock_nanosleep, NO_FLAG),
    NEEDED(dup, NO_FD),
    NEEDED(mkdirat, NO_FD),
    NEEDED(symlinkat, 0, NO_FD),
    NEEDED(readlinkat, NO_FD),
    NEEDED(getrandom, 0, 0, NO_FLAG),
    NEEDED(uname, 0),
    NEEDED(getpid, 0),
    USED(getuid, 0),
    NEEDED(geteuid, 0),
    NEEDED(getegid, 0),
    USED(setresgid, -1, -1, -1),
    USED(setresuid, -1, -1, -1),
    NEEDED(prlimit64, 0, NO_FLAG),
    NEEDED(writev, NO_FD), /* musl's stdio writes by writev(2) */
    /* The calls without which Python or Go fails at startup. */
    NEEDED(rt_sigaction, 0),
    NEEDED(rt_sigprocmask, 0),
    NEEDED(lseek, NO_FD),
    NEEDED(capget, 0),
    NEEDED(capset, 0),
    NEEDED(prctl, PR_SET_PDEATHSIG, NO_FLAG),
#ifdef SYS_chmod /* Older variants of system calls, which AArch64 lacks. */
    NEEDED(access, 0),
    NEEDED(getrlimit, 0),
    NEEDED(chmod, 0),
    NEEDED(mkdir, 0),
    NEEDED(readlink, 0),
    NEEDED(dup2, NO_FD, NO_FD),
    NEEDED(poll, 0, NO_FLAG),
    USED(stat, 0),
#endif
    USED(copy_file_range, NO_FD, 0, NO_FD, 0, 0, NO_FLAG),
    USED(unlinkat, NO_FD, 0, NO_FLAG),
    USED(umask, 0),
    /* The calls by which usernsctl-watch starts runsc and waits for its exit, and the calls that
     * runsc makes. */
    NEEDED(wait4, NO_PID, 0, NO_FLAG), /* wait_call tries wait4(2) before all other calls */
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
    USED(getrusage, NO_SUCH_PID),
    USED(getpgid, 0),
    NEEDED(getppid, 0),
    NEEDED(munmap, 1),
    USED(rt_sigtimedwait, 0),
    USED(nanosleep, 0),
    USED(sched_getaffinity, 0),
    USED(sched_yield, 0),
    USED(madvise, 1),
    USED(membarrier, NO_FLAG, NO_FLAG),
    /* The system calls of gVisor, and of programs in gVisor: a filter is applied to a program's
     * call before gVisor intercepts the call. */
    USED(statx, NO_FD, 0, NO_FLAG),
    NEEDED(fgetxattr, NO_FD),
    USED(fallocate, NO_FD),
    NEEDED(getpriority, NO_FLAG),
    USED(setpriority, NO_FLAG),
    USED(syslog, NO_FLAG),
};

/* The system calls by which un_spawn(), Python's subprocess module, doctor and usernsctl-probe
 * start the processes that test the host, and wait for them. */
static const struct un_probe_call doctor_calls[] = {
    CLONE3,
    USED(waitid, 0, 0, 0, NO_FLAG),
    NEEDED(wait4, NO_PID, 0, NO_FLAG),
    USED(uname, 0),
    USED(pipe2, 0, NO_FLAG),
    USED(clock_nanosleep, NO_FLAG),
    USED(fgetxattr, NO_FD),
    NEEDED(writev, NO_FD),
    USED(geteuid, 0),
    NEEDED(getpid, 0),
    NEEDED(getppid, 0),
    USED(epoll_create1, NO_FLAG),
#ifdef SYS_poll
    NEEDED(poll, 0, NO_FLAG),
    NEEDED(dup2, NO_FD, NO_FD),
#endif
};

/* The system calls by which usernsctl enters a new user namespace. If a filter makes one of these
 * calls fail, usernsctl reports the call's error anyway, so the call counts as forbidden only if a
 * filter kills the caller. getpid(2) counts as forbidden also if it fails, because its result is
 * never checked. The flag 1, which unshare(2) rejects, ensures that unshare(2) changes nothing. */
static const struct un_probe_call enter_calls[] = {
    {SYS_unshare,
     {CLONE_NEWUSER | CLONE_NEWNS | 1},
     "unshare",
     UN_STEP_UNSHARE,
     "seccomp-denies-userns",
     false},
    NEEDED(getpid, 0),
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

/* The system calls by which usernsctl reads the subordinate ranges, and finds and runs newuidmap
 * and newgidmap. */
static const struct un_probe_call ranges_calls[] = {
    USED(uname, 0), USED(statfs, 0), USED(pipe2, 0, NO_FLAG), USED(waitid, 0, 0, 0, NO_FLAG),
#ifdef SYS_stat
    USED(stat, 0),
#endif
};

/* The system calls of newuidmap and newgidmap, and of the dynamic loader that loads them. The calls
 * change nothing: mprotect(2) rejects the address, and fcntl(2) rejects the descriptor. */
static const struct un_probe_call helper_calls[] = {
    NEEDED(lseek, NO_FD),
    NEEDED(fcntl, NO_FD),
    NEEDED(pread64, NO_FD),
    NEEDED(mprotect, 1),
};

static const struct un_probe_call join_calls[] = {
    {SYS_setns, {NO_FD}, "setns", UN_STEP_SETNS, "seccomp-denies-userns", false}};

#define LIST(calls) {calls, sizeof(calls) / sizeof(calls)[0]}

const struct un_probe_calls un_launch_calls = LIST(launch_calls);
const struct un_probe_calls un_enter_calls = LIST(enter_calls);
const struct un_probe_calls un_ranges_calls = LIST(ranges_calls);
const struct un_probe_calls un_helper_calls = LIST(helper_calls);
const struct un_probe_calls un_join_calls = LIST(join_calls);

/* Returns whether a filter has denied the last system call, whose result is `result`. Checks for
 * the errors that filters usually return, and that the kernel itself never returns for these
 * arguments. EAFNOSUPPORT is the error of systemd's RestrictAddressFamilies=. */
static bool is_denied(long result)
{
    return result < 0 &&
           (errno == EPERM || errno == EACCES || errno == ENOSYS || errno == EAFNOSUPPORT);
}

/* A wait4(2) that returns at once, because the kernel rejects its flag. */
static const struct un_probe_call wait_call = USED(wait4, NO_PID, 0, NO_FLAG);

/* The results of the system calls that a child tries, in memory that the child shares with its
 * parent. */
struct trial {
    size_t begun;   /* number of system calls that the child has tried, including the current one */
    bool can_wait;  /* whether the child has survived wait4(2) */
    bool has_ended; /* whether the child has survived all system calls */
    bool is_denied; /* whether a filter has denied the last system call */
};

static long call(const struct un_probe_call *call)
{
    const long *with = call->argument;
    return syscall(call->number, with[0], with[1], with[2], with[3], with[4], with[5]);
}

static _Noreturn void try_in_child(const struct un_probe_calls *calls, struct trial *trial)
{
    /* Prevent a core dump if a filter kills this child. Ignore a failure, which at worst allows a
     * core dump. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    signal(SIGSYS, SIG_DFL);
    call(&wait_call);
    trial->can_wait = true;
    while (!trial->is_denied && trial->begun < calls->count) {
        const struct un_probe_call *next = &calls->call[trial->begun++];
        trial->is_denied = is_denied(call(next)) && next->is_needed;
    }
    trial->has_ended = true;
    _exit(0);
}

/* Returns whether the next child of this process would become PID 1 of a new PID namespace. The
 * namespace would end when that child exits, so no child must be created then. Until PID 1 exists,
 * stat(2) of ns/pid_for_children fails (pidns_for_children_get()). */
static bool would_be_first(void)
{
    struct stat status;
    return stat("/proc/thread-self/ns/pid", &status) == 0 &&
           stat("/proc/thread-self/ns/pid_for_children", &status) != 0;
}

/* Forks a child with all signals blocked, so that no handler of this process runs in the child. The
 * child has no exit signal, so neither a SIGCHLD handler nor a thread that waits for any child
 * notices it. CLONE_VFORK makes this call return only after the child has exited, so that no other
 * system call, which a filter might forbid, is needed to wait for that. */
static pid_t run_child(const struct un_probe_calls *calls, struct trial *trial)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_VFORK, NULL, NULL, NULL, NULL);
    if (child == 0)
        try_in_child(calls, trial);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return child;
}

/* Reaps the child. Returns whether a seccomp filter has killed the child. */
static bool was_killed(pid_t child, const struct trial *trial)
{
    int status;
    /* If a filter kills callers of wait4(2), do not reap the child, which then stays a zombie. */
    if (!trial->can_wait)
        return true;
    while (waitpid(child, &status, __WALL) < 0)
        if (errno != EINTR)
            return !trial->has_ended;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

static int fail_call(const struct un_probe_call *call, const char *how, struct un_error *err)
{
    un_fail(err, call->step, 0, call->cause, how, call->name);
    return 1;
}

/* Returns 1 if a filter forbids one of the system calls, and -1 with errno set if the child can't
 * be created. Returns 0 if no call is forbidden, or if the calls can't be tried, because the child
 * would become PID 1. */
static int run_trial(const struct un_probe_calls *calls, struct trial *trial, struct un_error *err)
{
    if (would_be_first())
        return 0;
    pid_t child = run_child(calls, trial);
    if (child < 0)
        return -1;
    const struct un_probe_call *last = trial->begun ? &calls->call[trial->begun - 1] : &wait_call;
    if (was_killed(child, trial))
        return fail_call(last, "a seccomp filter kills callers of %s(2)", err);
    return trial->is_denied ? fail_call(last, "a seccomp filter denies %s(2)", err) : 0;
}

/* Tries `calls` and returns the result of run_trial(). Returns 0 without trying them if this
 * process has no filter, or if memory is exhausted. */
static int try_calls(const struct un_probe_calls *calls, struct un_error *err)
{
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER)
        return 0;
    struct trial *trial =
        mmap(NULL, sizeof *trial, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (trial == MAP_FAILED)
        return 0;
    int result = run_trial(calls, trial, err);
    munmap(trial, sizeof *trial);
    return result;
}

static const struct un_probe_calls of_doctor = LIST(doctor_calls);

int un_filter_check(const struct un_probe_calls *calls, struct un_error *err)
{
    int result = try_calls(calls, err);
    /* Fail if the calls can't be tried, because a filter could kill this process before it reports
     * that no child can be created. */
    if (result < 0 && errno == EAGAIN) {
        un_fail_errno(err, UN_STEP_CLONE, "");
        err->cause = "process-limit";
        return -1;
    }
    return result > 0 ? -1 : 0;
}

int un_filter_check_launch(struct un_error *err)
{
    return un_filter_check(&un_launch_calls, err);
}

int un_filter_check_doctor(struct un_error *err)
{
    return un_filter_check(&of_doctor, err);
}

bool un_filter_forbids(const struct un_probe_calls *calls, struct un_error *err)
{
    return try_calls(calls, err) > 0;
}
