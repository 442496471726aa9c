#include "programs/shared/shared.h"

#include <signal.h>
#include <stddef.h>

int keep_early_signals(void)
{
    static const int numbers[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&set, numbers[i]);
    return sigprocmask(SIG_BLOCK, &set, NULL);
}
