#include "sys/supervise.h"
#include "base/error.h"
#include "sys/process.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* What is known of the child. */
struct life {
    pid_t pid;
    bool stopped;
    bool ended;
    int status; /* once it has ended: what our exit status should be */
};

/* Takes note of what happened to the child, and waits for whoever was left to us besides: a process
 * whose parent has ended becomes process 1's. */
static void take_changes(struct life *child)
{
    int change;
    pid_t whose;
    while ((whose = waitpid(-1, &change, WNOHANG | WUNTRACED | WCONTINUED)) > 0) {
        if (whose != child->pid)
            continue;
        child->stopped = WIFSTOPPED(change);
        child->ended = WIFEXITED(change) || WIFSIGNALED(change);
        if (child->ended)
            child->status = un_exit_status_of(change);
    }
}

/* Whether the kernel has sent a signal that we got to the child too; see supervise.h. */
static bool is_for_all(pid_t child, const siginfo_t *info)
{
    if (info->si_code != SI_KERNEL || getpgid(child) != getpgrp())
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

/* Nobody but us waits for the child, so its pid stays its own for as long as we may signal it. */
void un_pass_on_by_kill(pid_t child, const siginfo_t *info, void *arg)
{
    (void)arg;
    if (!is_for_all(child, info))
        kill(child, info->si_signo);
}

static int pass_on_until_end(pid_t pid, const sigset_t *signals, un_pass_on *pass_on, void *arg)
{
    struct life child = {.pid = pid};
    for (;;) {
        siginfo_t info;
        take_changes(&child);
        if (child.ended)
            return child.status;
        if (child.stopped && getpid() != 1) {
            child.stopped = false;
            raise(SIGSTOP);
        }
        /* The SIGCONT that wakes us up is one more signal to be passed on. */
        int sig = sigwaitinfo(signals, &info);
        if (sig > 0 && sig != SIGCHLD)
            pass_on(pid, &info, arg);
    }
}

/* What came too late for the child was not meant for us. */
static void discard(const sigset_t *signals)
{
    const struct timespec now = {.tv_sec = 0};
    while (sigtimedwait(signals, NULL, &now) > 0 || errno == EINTR)
        continue;
}

/* Whether the terminal is our input and our output, and we are in its foreground. If it is one of
 * them only, it is not ours to mend: in `we | less` we share its foreground with a program that
 * needs the mode it has set. */
static bool has_terminal(void)
{
    return tcgetpgrp(0) == getpgrp() && tcgetpgrp(1) == getpgrp();
}

/* Whether we are in the foreground, or were put out of it by a child that left nobody there. */
static bool take_foreground(void)
{
    pid_t group = tcgetpgrp(0);
    if (group == getpgrp())
        return true;
    return group > 1 && kill(-group, 0) && errno == ESRCH && !tcsetpgrp(0, getpgrp());
}

/* Signals as the supervisor of a child has them, and as they were before. */
struct signals {
    sigset_t all;
    sigset_t before;
    struct sigaction chosen; /* for SIGCHLD */
};

static void take_signals(struct signals *signals)
{
    /* A caller may have left SIGCHLD ignored: the kernel then collects children, and tells nothing
     * of them. */
    const struct sigaction told = {.sa_handler = SIG_DFL};
    sigfillset(&signals->all);
    sigprocmask(SIG_BLOCK, &signals->all, &signals->before);
    sigaction(SIGCHLD, &told, &signals->chosen);
}

static void give_signals_back(const struct signals *signals)
{
    sigaction(SIGCHLD, &signals->chosen, NULL);
    sigprocmask(SIG_SETMASK, &signals->before, NULL);
}

/* The terminal that we have for ourselves, and its mode. False: there is none. */
static bool read_terminal(struct termios *mode)
{
    return has_terminal() && !tcgetattr(0, mode);
}

/* `terminal`: the mode that it is to get back, or NULL. */
static int stand_in(pid_t child, const sigset_t *signals, un_pass_on *pass_on, void *arg,
                    const struct termios *terminal)
{
    int status = pass_on_until_end(child, signals, pass_on, arg);
    /* SIGTTOU is blocked, so that nothing stops us if somebody takes the foreground right now. */
    if (terminal && take_foreground())
        tcsetattr(0, TCSANOW, terminal);
    discard(signals);
    return status;
}

int un_stand_in(pid_t child)
{
    struct termios terminal;
    struct signals signals;
    bool restore = read_terminal(&terminal);
    take_signals(&signals);
    int status =
        stand_in(child, &signals.all, un_pass_on_by_kill, NULL, restore ? &terminal : NULL);
    give_signals_back(&signals);
    return status;
}

pid_t un_supervise(un_pass_on *pass_on, void *arg, int *parent_pidfd, int *status,
                   struct un_error *err)
{
    struct termios terminal;
    struct signals signals;
    int self = un_pidfd_open(getpid());
    if (self < 0)
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    bool restore = read_terminal(&terminal);
    take_signals(&signals);
    pid_t child = fork();
    if (child > 0)
        *status = stand_in(child, &signals.all, pass_on, arg, restore ? &terminal : NULL);
    else if (child < 0)
        un_fail_errno(err, UN_STEP_CLONE, "");
    else
        *parent_pidfd = self;
    give_signals_back(&signals);
    if (child)
        close(self);
    return child;
}
