#include "base/base.h"
#include "programs/shared/shared.h"

#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define END_MS 5000

bool any_child(pid_t pid, bool (*visit)(pid_t child, void *arg), void *arg, bool *failed)
{
    char path[64];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *threads = opendir(path);
    *failed = !threads;
    for (const struct dirent *thread; threads && !found && (thread = readdir(threads));) {
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)pid, thread->d_name);
        FILE *children = *thread->d_name == '.' ? NULL : fopen(path, "re");
        int child;
        while (children && !found && fscanf(children, "%d", &child) == 1)
            found = visit(child, arg);
        if (children)
            fclose(children);
    }
    if (threads)
        closedir(threads);
    return found;
}

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
