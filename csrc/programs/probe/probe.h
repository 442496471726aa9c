/* Runs a step or a command with a time limit. Internal. */
#ifndef USERNSCTL_PROGRAMS_PROBE_H
#define USERNSCTL_PROGRAMS_PROBE_H

#include <stdint.h>
#include <sys/types.h>

struct un_error;

/* Exit status of a step or command that has exceeded its time limit. */
#define UN_PROBE_LATE 124

/* Results of run_within() that are not an exit status. */
#define UN_PROBE_CHILD (-1)
#define UN_PROBE_NO_CHILD (-2)

/*
 * Forks a child for a step. Returns UN_PROBE_CHILD in the child. In the parent, waits at most
 * `most` milliseconds for the exit of the child. Afterwards kills and reaps all remaining
 * descendants. Returns the child's exit status, 128+N if signal N has killed the child, or
 * UN_PROBE_LATE after the time limit. Returns UN_PROBE_NO_CHILD with the error in `err` if fork(2)
 * fails.
 */
int run_within(uint64_t most, struct un_error *err);

/* Kills a child by a pidfd if possible, instead of kill(2), because a seccomp filter may deny
 * kill(2), or kill processes that call kill(2). */
void kill_child(pid_t pid);

#endif
