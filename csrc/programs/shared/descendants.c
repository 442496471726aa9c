#include "base/base.h"
#include "programs/shared/shared.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define END_MS 5000

int adopt_descendants(void)
{
    return access(CHILDREN, R_OK) || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) ? -1 : 0;
}

static void kill_children(void)
{
    FILE *children = fopen(CHILDREN, "re");
    int pid;
    while (children && fscanf(children, "%d", &pid) == 1)
        kill(pid, SIGKILL);
    if (children)
        fclose(children);
}

void kill_descendants(void)
{
    const struct timespec pause = {.tv_nsec = 5000000};
    int64_t deadline = un_now_ms() + END_MS;
    pid_t ended;
    do {
        /* Orphans become children of this process. */
        kill_children();
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            continue;
        if (!ended)
            nanosleep(&pause, NULL);
    } while (!ended && un_now_ms() < deadline);
}
