#include "base/base.h"
#include "programs/probe/probe.h"
#include "sys/sys.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define FAILED 125

/* Timeout in ms for the exit of killed processes. */
#define GRACE_MS 2000
/* Interval in ms between two searches for more processes to kill. */
#define SLICE_MS 20

/* Waits for SIGCHLD, which is blocked, until the deadline `until` in ms (un_now_ms()). */
static void wait_for_change(const sigset_t *signals, int64_t until)
{
    int64_t left = until - un_now_ms();
    if (left <= 0)
        return;
    const struct timespec most = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
    sigtimedwait(signals, NULL, &most);
}

void kill_child(pid_t pid)
{
    int pidfd = un_pidfd_open(pid);
    if (pidfd >= 0) {
        un_kill(pidfd);
        close(pidfd);
    } else {
        kill(pid, SIGKILL);
    }
}

/* Kills a child by its directory in /proc, which pidfd_send_signal(2) accepts as a pidfd. In the
 * /proc of an outer PID namespace, `pid` is not the pid that kill(2) and pidfd_open(2) take. */
static void kill_in_outer_proc(long pid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%ld", pid);
    int directory = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return;
    syscall(UN_SYS_PIDFD_SEND_SIGNAL, directory, SIGKILL, NULL, 0);
    close(directory);
}

/* Kills all children, except the first if `has_ended`. Returns false without killing any if /proc
 * does not list the children. The list begins with the child that this process has forked, because
 * the kernel appends orphans. */
static bool kill_own_children(bool has_ended)
{
    char text[4096], *at = text;
    if (un_read_file(AT_FDCWD, "/proc/thread-self/children", text, sizeof text) < 0)
        return false;
    bool is_own_proc = un_proc_status("/proc", "Pid:") == getpid();
    if (has_ended)
        strtol(at, &at, 10);
    /* A blank follows each pid. A pid without a blank is truncated. */
    for (long pid; (pid = strtol(at, &at, 10)) > 0 && *at == ' ';)
        if (is_own_proc)
            kill_child((pid_t)pid);
        else
            kill_in_outer_proc(pid);
    return true;
}

/* Reaps all children that have exited. Returns whether no child remains. */
static bool reap_ended(void)
{
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
        continue;
    return pid < 0 && errno == ECHILD;
}

/*
 * Kills and reaps all descendants. Repeats the search for children, because the orphans of a killed
 * child become children of this process. If kill_own_children() fails, kills the process group of
 * the child `first`. The child is not reaped yet, so the kernel can't have reused the id of the
 * group.
 *
 * If kill_own_children() succeeds and finds no child but the exited one, calls neither kill(2) nor
 * pidfd_send_signal(2), because a seccomp filter may kill a process that calls them.
 */
static void end_all(pid_t first, bool has_ended, const sigset_t *signals)
{
    int64_t until = un_now_ms() + GRACE_MS;
    if (!kill_own_children(has_ended))
        kill(-first, SIGKILL);
    while (!reap_ended() && un_now_ms() < until) {
        wait_for_change(signals, un_now_ms() + SLICE_MS);
        kill_own_children(false);
    }
}

/* Waits for the exit of a child until the deadline `until`. Does not reap the child. Returns its
 * exit status, 128+N if signal N killed it, or UN_PROBE_LATE after the deadline. */
static int wait_for_probe(pid_t child, const sigset_t *signals, int64_t until)
{
    siginfo_t how;
    for (;;) {
        how.si_pid = 0;
        if (!waitid(P_PID, (id_t)child, &how, WEXITED | WNOHANG | WNOWAIT) && how.si_pid)
            return how.si_code == CLD_EXITED ? how.si_status : 128 + how.si_status;
        if (un_now_ms() >= until)
            return UN_PROBE_LATE;
        wait_for_change(signals, until);
    }
}

int run_within(uint64_t most, struct un_error *err)
{
    int64_t until = un_now_ms() + (int64_t)most;
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, &before);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    pid_t self = getpid(), child = un_fork();
    if (child < 0) {
        un_fail_errno(err, UN_STEP_CLONE, "fork");
        return UN_PROBE_NO_CHILD;
    }
    if (child > 0) {
        int status = wait_for_probe(child, &signals, until);
        end_all(child, status != UN_PROBE_LATE, &signals);
        return status;
    }
    /* Create the process group that end_all() kills. setpgid(2) would suffice, but since the start
     * of a sandbox does not need setpgid(2), a seccomp filter may kill a process that calls it.
     * setsid(2) does not detach the step from a terminal, because the parent's session has no
     * controlling terminal. */
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (getppid() != self)
        _exit(FAILED);
    return UN_PROBE_CHILD;
}
