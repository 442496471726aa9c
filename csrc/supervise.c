#include "supervise.h"
#include "clone.h"
#include "error.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Takes note of all that happened to the child. True once it has ended. */
static bool take_changes(pid_t child, int *status)
{
    int change;
    while (waitpid(child, &change, WNOHANG | WUNTRACED) == child) {
        if (WIFEXITED(change) || WIFSIGNALED(change)) {
            *status = WIFEXITED(change) ? WEXITSTATUS(change) : 128 + WTERMSIG(change);
            return true;
        }
        /* A stopped child stops us: else our shell would take us for running. */
        if (WIFSTOPPED(change)) {
            raise(SIGSTOP);
            kill(child, SIGCONT);
        }
    }
    return false;
}

void un_pass_on_by_kill(pid_t child, const siginfo_t *info, void *arg)
{
    (void)arg;
    if (info->si_code != SI_KERNEL)
        kill(child, info->si_signo);
}

static int pass_on_until_end(pid_t child, const sigset_t *signals, un_pass_on *pass_on, void *arg)
{
    int status = 0;
    while (!take_changes(child, &status)) {
        siginfo_t info;
        int sig = sigwaitinfo(signals, &info);
        if (sig > 0 && sig != SIGCHLD)
            pass_on(child, &info, arg);
    }
    return status;
}

pid_t un_supervise(un_pass_on *pass_on, void *arg, int *parent_pidfd, int *status,
                   struct un_error *err)
{
    /* A caller may have left SIGCHLD ignored: the kernel then collects children, and tells nothing
     * of them. */
    const struct sigaction told = {.sa_handler = SIG_DFL};
    struct sigaction chosen;
    sigset_t all, before;
    int self = un_pidfd_open(getpid());
    if (self < 0)
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    sigaction(SIGCHLD, &told, &chosen);
    pid_t child = fork();
    if (child <= 0)
        sigaction(SIGCHLD, &chosen, NULL);
    if (child > 0)
        *status = pass_on_until_end(child, &all, pass_on, arg);
    else if (child < 0)
        un_explain_clone(err, UN_STEP_CLONE, 0);
    else
        *parent_pidfd = self;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (child)
        close(self);
    return child;
}
