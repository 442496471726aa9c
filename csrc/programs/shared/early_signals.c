#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <signal.h>
#include <sys/signalfd.h>

static sigset_t ending_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (int sig = 1; sig < NSIG; sig++)
        if (un_is_terminating(sig))
            sigaddset(&set, sig);
    return set;
}

int keep_early_signals(void)
{
    const sigset_t set = ending_signals();
    return sigprocmask(SIG_BLOCK, &set, NULL);
}

int open_kept_signals(void)
{
    const sigset_t set = ending_signals();
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}
