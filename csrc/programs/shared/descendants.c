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

/* Returns the start time of the process `pid` in clock ticks since boot, or 0 if the process does
 * not exist. */
static uint64_t read_start(pid_t pid)
{
    char path[64], text[1024];
    uint64_t start = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *at = un_proc_stat(AT_FDCWD, path, text, sizeof text);
    /* Skip the 19 fields from `state` to the field before `starttime` (proc_pid_stat(5)). */
    for (int i = 0; i < 19 && at; i++)
        at = (at = strchr(at, ' ')) ? at + 1 : NULL;
    if (at)
        un_number_read(at, INT64_MAX, &start);
    return start;
}

void children_add(struct children *children, pid_t pid)
{
    struct child *all = realloc(children->child, (children->count + 1) * sizeof *children->child);
    if (!all)
        return;
    children->child = all;
    children->child[children->count++] = (struct child){.pid = pid, .start = read_start(pid)};
}

void children_read(struct children *children)
{
    FILE *file = fopen(CHILDREN, "re");
    int pid;
    while (file && fscanf(file, "%d", &pid) == 1)
        children_add(children, pid);
    if (file)
        fclose(file);
}

/* Returns whether the list contains the process `pid`. Compares the start time, too, because the
 * pid of a reaped child may have been reused. */
static bool has_child(const struct children *children, pid_t pid)
{
    for (size_t i = 0; children && i < children->count; i++)
        if (children->child[i].pid == pid)
            return children->child[i].start == read_start(pid);
    return false;
}

/* Sends the signal `sig`, unless it is 0, to all children that are not in `spared`, and reaps the
 * exited ones among them. Adds the number of reaped children to *reaped. Returns whether any child
 * that is not in `spared` was found, even if it was reaped. */
static bool end_children(const struct children *spared, int sig, int *reaped)
{
    FILE *file = fopen(CHILDREN, "re");
    bool are_left = false;
    int pid;
    while (file && fscanf(file, "%d", &pid) == 1)
        if (!has_child(spared, pid)) {
            are_left = true;
            if (sig)
                kill(pid, sig);
            *reaped += waitpid(pid, NULL, WNOHANG) == pid;
        }
    if (file)
        fclose(file);
    return are_left;
}

/* Signals and reaps the children that are not in `spared` until none remains, or until the
 * deadline. Orphans of the children become children of this process, and are treated in the same
 * way. */
static void wait_for_children(const struct children *spared, int sig, int64_t deadline,
                              const struct timespec *pause)
{
    int reaped = 0;
    while (end_children(spared, sig, &reaped) && un_now_ms() < deadline) {
        if (!reaped)
            nanosleep(pause, NULL);
        reaped = 0;
    }
}

void kill_descendants(const struct children *spared)
{
    const struct timespec pause = {.tv_nsec = 5000000};
    wait_for_children(spared, SIGKILL, un_now_ms() + END_MS, &pause);
}

void reap_descendants(const struct children *spared, int timeout)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    wait_for_children(spared, 0, un_now_ms() + timeout, &pause);
}
