#include "sys/sys.h"

#include <errno.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Records `status`, a wait status of the command, or of PID 1 of the command's PID namespace, which
 * has forked the command. Returns whether `status` means that the process has exited or was killed.
 * PID 1 exits after the command, with another status. So the status of PID 1 counts only if PID 1
 * was killed before it reported the exit of the command. */
static bool note_status(struct un_watched_child *child, int status)
{
    bool ended = WIFEXITED(status) || WIFSIGNALED(status);
    child->stopped = WIFSTOPPED(status);
    if (ended && !child->has_status) {
        child->has_status = true;
        child->wait_status = status;
    }
    return ended;
}

static void take_reports(struct un_watched_child *child)
{
    int status;
    while (child->reports >= 0 && read(child->reports, &status, sizeof status) == sizeof status)
        note_status(child, status);
}

/* Records all changes of the child's status (exits, stops and continues), and reaps all other
 * children. */
static void take_changes(struct un_watched_child *child)
{
    int status;
    pid_t whose;
    while ((whose = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) > 0) {
        if (whose != child->pid)
            continue;
        /* Read the reports that PID 1 wrote before it exited, and then the status of PID 1
         * itself. */
        take_reports(child);
        child->ended = note_status(child, status);
        /* Ignore a full pipe, in which this report is lost. The pipe is full only if its reader is
         * stopped; once resumed, the reader receives a later report. */
        if (child->report >= 0)
            (void)!write(child->report, &status, sizeof status);
    }
    take_reports(child);
}

/* Returns whether the kernel has sent a signal of this process to the child as well (see
 * un_pass_on_by_kill). */
static bool is_for_all(pid_t child, const siginfo_t *info)
{
    if (info->si_code != SI_KERNEL || getpgid(child) != getpgid(0))
        return false;
    switch (info->si_signo) {
    case SIGINT:
    case SIGQUIT:
    case SIGTSTP:
    case SIGWINCH:
    case SIGTTIN:
    case SIGTTOU:
        return true;
    case SIGHUP:
    case SIGCONT:
        return getsid(0) != getpid();
    default:
        return false;
    }
}

/* Signalling the child by its pid is safe: only this thread reaps the child, so the pid can't have
 * been reused. */
void un_pass_on_by_kill(pid_t child, const siginfo_t *info, void *arg)
{
    (void)arg;
    if (!is_for_all(child, info))
        kill(child, info->si_signo);
}

/* All signals, including those that libc reserves: musl, for example, reserves signal 34, which
 * glibc's programs use as their first real-time signal. */
static const uint64_t every_signal = ~UINT64_C(0);

/* Waits for any signal. Returns its number, or -1 with errno set. */
static int wait_for_signal(siginfo_t *info, const struct timespec *timeout)
{
    return (int)syscall(SYS_rt_sigtimedwait, &every_signal, info, timeout, sizeof every_signal);
}

/* Waits for any signal, for `timeout_ms` milliseconds at most, or until the descriptor of `checkup`
 * has an event. Returns the signal's number, or -1. */
static int wait_for_signal_or_event(siginfo_t *info, const struct un_checkup *checkup,
                                    int timeout_ms)
{
    const struct timespec limit = {
        .tv_sec = timeout_ms / 1000,
        .tv_nsec = timeout_ms % 1000 * 1000000L,
    };
    struct timespec now = {.tv_sec = 0};
    if (!checkup || checkup->fd < 0)
        return wait_for_signal(info, timeout_ms < 0 ? NULL : &limit);
    struct pollfd fds[] = {{.fd = checkup->signals, .events = POLLIN},
                           {.fd = checkup->fd, .events = POLLPRI}};
    poll(fds, 2, timeout_ms);
    return wait_for_signal(info, &now);
}

int un_open_signals(void)
{
    return (int)syscall(SYS_signalfd4, -1, &every_signal, sizeof every_signal,
                        SFD_CLOEXEC | SFD_NONBLOCK);
}

bool un_is_terminating(int sig)
{
    return sig == SIGHUP || sig == SIGINT || sig == SIGQUIT || sig == SIGTERM;
}

bool un_is_ignored(int sig)
{
    struct sigaction now;
    return !sigaction(sig, NULL, &now) && now.sa_handler == SIG_IGN;
}

bool un_discard_signals(void)
{
    const struct timespec now = {.tv_sec = 0};
    bool has_terminating = false;
    siginfo_t info;
    int sig;
    while ((sig = wait_for_signal(&info, &now)) > 0 || errno == EINTR)
        has_terminating = has_terminating || un_is_terminating(sig);
    return has_terminating;
}

void un_pass_on_until_end(struct un_watched_child *child, un_pass_on *pass_on, void *arg)
{
    for (;;) {
        siginfo_t info;
        take_changes(child);
        if (child->ended)
            return;
        if (child->stopped && getpid() != 1) {
            child->stopped = false;
            kill(getpid(), SIGSTOP);
        }
        int timeout_ms =
            child->checkup ? child->checkup->check(child->pid, child->checkup->arg) : -1;
        /* Forward the SIGCONT that resumes this process, too, like any other signal. */
        int sig = wait_for_signal_or_event(&info, child->checkup, timeout_ms);
        if (sig > 0 && sig != SIGCHLD)
            pass_on(child->pid, &info, arg);
    }
}

_Noreturn void un_be_init(pid_t child, int report)
{
    struct un_watched_child command = {.pid = child, .report = report, .reports = -1};
    struct un_error ignored;
    for (int fd = 0; fd < 3; fd++)
        if (fd != report)
            close(fd);
    un_close_fds(&report, report >= 0, &ignored);
    un_pass_on_until_end(&command, un_pass_on_by_kill, NULL);
    _exit(un_exit_status_of(command.wait_status));
}
