#include "supervise.h"
#include "clone.h"
#include "error.h"

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
            child->status = WIFEXITED(change) ? WEXITSTATUS(change) : 128 + WTERMSIG(change);
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

static int run_child(pid_t child, const sigset_t *signals, un_pass_on *pass_on, void *arg,
                     const struct termios *terminal)
{
    int status = pass_on_until_end(child, signals, pass_on, arg);
    /* SIGTTOU is blocked, so that nothing stops us if somebody takes the foreground right now. */
    if (terminal && take_foreground())
        tcsetattr(0, TCSANOW, terminal);
    discard(signals);
    return status;
}

pid_t un_supervise(un_pass_on *pass_on, void *arg, int *parent_pidfd, int *status,
                   struct un_error *err)
{
    /* A caller may have left SIGCHLD ignored: the kernel then collects children, and tells nothing
     * of them. */
    const struct sigaction told = {.sa_handler = SIG_DFL};
    struct sigaction chosen;
    struct termios terminal;
    sigset_t all, before;
    int self = un_pidfd_open(getpid());
    if (self < 0)
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    bool restore = has_terminal() && !tcgetattr(0, &terminal);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    sigaction(SIGCHLD, &told, &chosen);
    pid_t child = fork();
    if (child > 0)
        *status = run_child(child, &all, pass_on, arg, restore ? &terminal : NULL);
    else if (child < 0)
        un_explain_clone(err, UN_STEP_CLONE, 0);
    else
        *parent_pidfd = self;
    sigaction(SIGCHLD, &chosen, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (child)
        close(self);
    return child;
}
