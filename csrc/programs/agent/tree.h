/* All descendants of a process that is their subreaper: whoever loses a parent becomes its child,
 * whatever sessions and groups there are. */
#ifndef USERNSCTL_PROGRAMS_AGENT_TREE_H
#define USERNSCTL_PROGRAMS_AGENT_TREE_H

#include <stdbool.h>
#include <sys/types.h>

/* A descriptor of /proc that nothing mounted later covers, -1 where it is not one. */
int agent_open_proc(void);

/* Sends a signal to every descendant of the caller, or to those in the group `group` if that is not
 * 0. What is made meanwhile may be left out. False: /proc does not tell. */
bool agent_signal_tree(int proc, pid_t group, int sig);

/* Whether a child of the caller is to be left alone. */
typedef bool agent_spared(pid_t pid, void *arg);

/* Kills the descendants of the caller, but for those children that are spared, and theirs: whether
 * there were any. */
bool agent_kill_others(int proc, agent_spared *spared, void *arg);

/* Stops everything but the caller and process 1 for a moment, and kills what is below `root`. What
 * somebody had stopped before goes on afterwards, too. */
void agent_kill_while_all_stands(int proc, pid_t root);

struct agent_killing {
    /* Waits for the children that have ended: whether there are any left. */
    bool (*reap)(void *arg);
    /* Has somebody call agent_kill_while_all_stands() for the caller; NULL: nobody may. */
    void (*get_help)(void *arg);
    void *arg;
    pid_t group; /* one in which there are only descendants, or 0 */
};

/* Kills until the caller has no child any more, and so no descendant. */
void agent_kill_tree(int proc, const struct agent_killing *how);

#endif
