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

/* Waits for the children that have ended: whether there are any left. */
typedef bool agent_reaper(void *arg);

/* Kills until the caller has no child any more, and so no descendant. */
void agent_kill_tree(int proc, agent_reaper *reap, void *arg);

#endif
