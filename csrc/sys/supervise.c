#include "base/base.h"
#include "sys/sys.h"

#include <sys/prctl.h>
#include <sys/stat.h>
#include <termios.h>

bool un_stdio_is_terminal(void)
{
    struct stat first, other;
    if (!isatty(0) || fstat(0, &first))
        return false;
    for (int fd = 1; fd < 3; fd++)
        if (!isatty(fd) || fstat(fd, &other) || other.st_rdev != first.st_rdev)
            return false;
    return true;
}

/* Returns whether standard input and output are the same terminal, and this process group is the
 * foreground process group of that terminal. If only one of the two is the terminal, the mode of
 * the terminal must not be restored. In `command | less`, for example, less belongs to the
 * foreground process group, too, and has set the mode that it needs. */
static bool has_terminal(void)
{
    return tcgetpgrp(0) == getpgrp() && tcgetpgrp(1) == getpgrp();
}

/* Returns whether this process group is the foreground process group of the terminal. If a child
 * has made another group the foreground process group, and that group no longer exists, first makes
 * this group the foreground process group again. */
static bool take_foreground(void)
{
    pid_t group = tcgetpgrp(0);
    if (group == getpgrp())
        return true;
    return group > 1 && kill(-group, 0) && errno == ESRCH && !tcsetpgrp(0, getpgrp());
}

/* The signal mask and the action for SIGCHLD that this process had before it supervised a child. */
struct signal_settings {
    uint64_t mask;
    struct sigaction sigchld;
};

static void save_signals(struct signal_settings *signal_settings)
{
    signal_settings->mask = un_block_signals();
    un_default_sigchld(&signal_settings->sigchld);
}

static void restore_signals(const struct signal_settings *signal_settings)
{
    sigaction(SIGCHLD, &signal_settings->sigchld, NULL);
    un_set_signals(signal_settings->mask);
}

/* Reads the mode of the terminal. Returns false if has_terminal() returns false, or if the mode
 * can't be read. */
static bool read_terminal(struct termios *mode)
{
    return has_terminal() && !tcgetattr(0, mode);
}

/* Waits for the child. Then restores the mode of the terminal, unless `terminal` is NULL, and
 * discards the pending signals. Returns whether a terminating signal was among them
 * (un_discard_signals()). */
static bool wait_and_restore(struct un_watched_child *child, un_pass_on *pass_on, void *arg,
                             const struct termios *terminal)
{
    un_pass_on_until_end(child, pass_on, arg);
    /* SIGTTOU is blocked, so tcsetattr(3) can't stop this process, even if another process group
     * has become the foreground group. */
    if (terminal && take_foreground())
        tcsetattr(0, TCSANOW, terminal);
    return un_discard_signals();
}

int un_supervise_child(pid_t child)
{
    struct termios terminal;
    struct signal_settings signal_settings;
    struct un_watched_child watched = {.pid = child, .report = -1, .reports = -1};
    bool restore = read_terminal(&terminal);
    save_signals(&signal_settings);
    wait_and_restore(&watched, un_pass_on_by_kill, NULL, restore ? &terminal : NULL);
    restore_signals(&signal_settings);
    return watched.wait_status;
}

void un_reraise(int sig)
{
    if (sig < 1 || sig >= NSIG)
        return;
    /* Make this process non-dumpable, so that it leaves no core dump. RLIMIT_CORE is not enough,
     * because it does not apply to core dumps that are piped to a program (core(5)). Ignore a
     * failure, which at worst allows a core dump. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* Restore the default action and unblock the signal, because the caller may have ignored or
     * blocked it. */
    signal(sig, SIG_DFL);
    un_set_signals(un_signal_mask() & ~(UINT64_C(1) << (sig - 1)));
    kill(getpid(), sig);
}

/* Opens the pipe by which PID 1 of the new PID namespace reports the wait statuses of the command,
 * because PID 1 can't send signals to processes outside its PID namespace. Each report raises
 * SIGCHLD in this process. reports[0] is the read end. */
static int open_reports(int reports[2], struct un_error *err)
{
    if (pipe2(reports, O_CLOEXEC | O_NONBLOCK))
        return un_fail_errno(err, UN_STEP_CLONE, "can't open a pipe for the reports of PID 1");
    if (!fcntl(reports[0], F_SETOWN, getpid()) && !fcntl(reports[0], F_SETSIG, SIGCHLD) &&
        !fcntl(reports[0], F_SETFL, O_NONBLOCK | O_ASYNC))
        return 0;
    un_fail_errno(err, UN_STEP_CLONE, "F_SETSIG");
    un_close_each(reports, 2);
    return -1;
}

/* Runs in PID 1 of the new PID namespace: forks the command, and waits for it in un_be_init().
 * Returns only in the command's process, or on failure. */
static pid_t fork_command(const struct un_supervision *how, int parent_pidfd, int report,
                          struct un_error *err)
{
    if (un_die_with_parent(how->init_deathsig, parent_pidfd, err))
        return -1;
    pid_t child = un_fork();
    if (child > 0)
        un_be_init(child, report);
    return child < 0 ? un_fail_errno(err, UN_STEP_CLONE, "fork") : 0;
}

/* Forks with all signals blocked, so that no signal is lost before this process can forward it to
 * the child. */
static pid_t fork_and_wait(struct un_supervision *how, int self, int reports[2],
                           struct un_error *err)
{
    struct termios terminal;
    struct signal_settings signal_settings;
    bool restore = read_terminal(&terminal);
    save_signals(&signal_settings);
    pid_t child = un_fork();
    if (child > 0) {
        struct un_watched_child watched = {
            .pid = child,
            .checkup = how->checkup,
            .report = -1,
            .reports = reports[0],
        };
        how->is_terminated_late =
            wait_and_restore(&watched, how->pass_on, how->arg, restore ? &terminal : NULL);
        how->wait_status = watched.wait_status;
    } else if (child < 0) {
        un_fail_errno(err, UN_STEP_CLONE, "fork");
    } else if (how->has_init) {
        child = fork_command(how, self, reports[1], err);
    }
    restore_signals(&signal_settings);
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
    un_close_each(reports, 2);
    return child;
}
