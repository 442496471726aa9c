/* Running a step with a time limit. Internal. */
#ifndef USERNSCTL_PROGRAMS_PROBE_H
#define USERNSCTL_PROGRAMS_PROBE_H

#include <stdint.h>
#include <sys/types.h>

struct un_error;

/* Exit status after the time limit. */
#define UN_PROBE_LATE 124

/* Results of run_within() that are not an exit status. */
#define UN_PROBE_CHILD (-1)
#define UN_PROBE_NO_CHILD (-2)

/*
 * Forks. Returns UN_PROBE_CHILD in the child, which runs the step. In the parent, waits for the
 * child for at most `most` milliseconds, kills and reaps all its descendants, and returns its exit
 * status, 128+N if signal N killed the child, or UN_PROBE_LATE after the time limit. Returns
 * UN_PROBE_NO_CHILD with the error if fork(2) fails.
 */
int run_within(uint64_t most, struct un_error *err);

/* Kills a child, by pidfd if possible, because a seccomp filter may deny kill(2), or kill its
 * caller. */
void kill_child(pid_t pid);

#endif
