#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <stdlib.h>

extern char **environ;

/* Returns whether this container has its own user namespace. Only the initial user namespace maps
 * all ids. */
static bool is_in_user_namespace(void)
{
    char map[64];
    unsigned inside, outside, count;
    return un_read_file(AT_FDCWD, "/proc/self/uid_map", map, sizeof map) > 0 &&
           (sscanf(map, "%u %u %u", &inside, &outside, &count) != 3 || count != UINT32_MAX);
}

bool stay_outside(int *status)
{
    struct sigaction sigchld;
    if (getpid() != 1 || !is_in_user_namespace())
        return false;
    uint64_t signals = un_block_signals();
    un_default_sigchld(&sigchld);
    pid_t child = un_fork();
    if (child > 0) {
        /* Erase the environment of PID 1, because only the command may have the caller's
         * environment variables. */
        for (char **at = environ; *at; at++)
            memset(*at, 0, strlen(*at));
        *status = un_exit_status_of(un_supervise_child(child));
        return true;
    }
    sigaction(SIGCHLD, &sigchld, NULL);
    un_set_signals(signals);
    *status = -1;
    return child < 0;
}
