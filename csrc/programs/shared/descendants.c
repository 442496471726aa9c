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

/* Kills all children but `spared`. Returns whether there may be any. */
static bool kill_children(pid_t spared)
{
    FILE *children = fopen(CHILDREN, "re");
    bool are_left = !children;
    int pid;
    while (children && fscanf(children, "%d", &pid) == 1)
        if (pid != spared) {
            are_left = true;
            kill(pid, SIGKILL);
        }
    if (children)
        fclose(children);
    return are_left;
}

void kill_descendants(pid_t spared)
{
    const struct timespec pause = {.tv_nsec = 5000000};
    int64_t deadline = un_now_ms() + END_MS;
    pid_t ended;
    bool are_left;
    do {
        /* Orphans become children of this process. */
        are_left = kill_children(spared);
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            continue;
        are_left = are_left && !ended;
        if (are_left)
            nanosleep(&pause, NULL);
    } while (are_left && un_now_ms() < deadline);
}
