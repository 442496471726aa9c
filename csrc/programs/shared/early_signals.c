#include "programs/shared/shared.h"

#include <signal.h>
#include <stddef.h>
#include <sys/signalfd.h>

static sigset_t ending_signals(void)
{
    static const int numbers[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&set, numbers[i]);
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
