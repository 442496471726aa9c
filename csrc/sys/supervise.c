#include "base/base.h"
#include "sys/sys.h"

#include <termios.h>

/* Returns whether the terminal is our input and our output, and we are in its foreground. If it is
 * one of them only, it is not ours to mend: in `we | less` we share its foreground with a program
 * that needs the mode it has set. */
static bool has_terminal(void)
{
    return tcgetpgrp(0) == getpgrp() && tcgetpgrp(1) == getpgrp();
}

/* Returns whether we are in the foreground, or were put out of it by a child that left nobody
 * there. */
static bool take_foreground(void)
{
    pid_t group = tcgetpgrp(0);
    if (group == getpgrp())
        return true;
    return group > 1 && kill(-group, 0) && errno == ESRCH && !tcsetpgrp(0, getpgrp());
}

/* Signals as the supervisor of a child has them, and as they were before. */
struct signals {
    uint64_t before;         /* what was blocked */
    struct sigaction chosen; /* for SIGCHLD */
};

static void take_signals(struct signals *signals)
{
    signals->before = un_block_signals();
    un_default_sigchld(&signals->chosen);
}

static void give_signals_back(const struct signals *signals)
{
    sigaction(SIGCHLD, &signals->chosen, NULL);
    un_set_signals(signals->before);
}

/* Reads the mode of the terminal that we have for ourselves. Returns false if there is none. */
static bool read_terminal(struct termios *mode)
{
    return has_terminal() && !tcgetattr(0, mode);
}

/* Waits for the child. `terminal`: the mode that the terminal is to get back, or NULL. */
static void stand_in(struct un_watched *child, un_pass_on *pass_on, void *arg,
                     const struct termios *terminal)
{
    un_pass_on_until_end(child, pass_on, arg);
    /* SIGTTOU is blocked, so that nothing stops us if somebody takes the foreground right now. */
    if (terminal && take_foreground())
        tcsetattr(0, TCSANOW, terminal);
    un_discard_signals();
}

int un_stand_in(pid_t child)
{
    struct termios terminal;
    struct signals signals;
    struct un_watched watched = {.pid = child, .report = -1, .reports = -1};
    bool restore = read_terminal(&terminal);
    take_signals(&signals);
    stand_in(&watched, un_pass_on_by_kill, NULL, restore ? &terminal : NULL);
    give_signals_back(&signals);
    return watched.wait_status;
}

void un_reraise(int sig)
{
    if (sig < 1 || sig >= NSIG)
        return;
    /* A process that is not dumpable leaves no core. RLIMIT_CORE is no limit to a core that goes to
     * a program (core(5)). */
    un_hide_process();
    /* A caller may have left the signal ignored, or blocked. */
    signal(sig, SIG_DFL);
    un_set_signals(un_signal_mask() & ~(UINT64_C(1) << (sig - 1)));
    kill(getpid(), sig);
}

/* A pipe by which process 1, which has no number for us, reports on the command: the first end is
 * ours, and what comes there wakes us by SIGCHLD. */
static int open_reports(int reports[2], struct un_error *err)
{
    if (pipe2(reports, O_CLOEXEC | O_NONBLOCK))
        return un_fail_errno(err, UN_STEP_CLONE, "pipe2");
    if (!fcntl(reports[0], F_SETOWN, getpid()) && !fcntl(reports[0], F_SETSIG, SIGCHLD) &&
        !fcntl(reports[0], F_SETFL, O_NONBLOCK | O_ASYNC))
        return 0;
    un_fail_errno(err, UN_STEP_CLONE, "F_SETSIG");
    close(reports[0]);
    close(reports[1]);
    return -1;
}

/* In process 1: forks the command, and returns in that, or if it failed. */
static pid_t fork_command(const struct un_supervision *how, int parent_pidfd, int report,
                          struct un_error *err)
{
    if (un_die_with_parent(how->init_deathsig, parent_pidfd, err))
        return -1;
    pid_t child = fork();
    if (child > 0)
        un_be_init(child, report);
    return child < 0 ? un_fail_errno(err, UN_STEP_CLONE, "") : 0;
}

/* Forks with all signals blocked, so that none is lost which comes before it can be passed on. */
static pid_t fork_and_wait(struct un_supervision *how, int self, int reports[2],
                           struct un_error *err)
{
    struct termios terminal;
    struct signals signals;
    bool restore = read_terminal(&terminal);
    take_signals(&signals);
    pid_t child = fork();
    if (child > 0) {
        struct un_watched watched = {.pid = child, .report = -1, .reports = reports[0]};
        stand_in(&watched, how->pass_on, how->arg, restore ? &terminal : NULL);
        how->wait_status = watched.wait_status;
    } else if (child < 0) {
        un_fail_errno(err, UN_STEP_CLONE, "");
    } else if (how->has_init) {
        child = fork_command(how, self, reports[1], err);
    }
    give_signals_back(&signals);
    return child;
}

pid_t un_supervise(struct un_supervision *how, struct un_error *err)
{
    int reports[2] = {-1, -1};
    int self = un_pidfd_open(getpid());
    if (self < 0)
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    if (how->has_init && open_reports(reports, err)) {
        close(self);
        return -1;
    }
    pid_t child = fork_and_wait(how, self, reports, err);
    how->parent_pidfd = child || how->has_init ? -1 : self;
    if (how->parent_pidfd < 0)
        close(self);
    for (int i = 0; i < 2; i++)
        if (reports[i] >= 0)
            close(reports[i]);
    return child;
}
