/* Running a step or a command with a timeout. Internal to usernsctl. */
#ifndef USERNSCTL_PROGRAMS_PROBE_H
#define USERNSCTL_PROGRAMS_PROBE_H

#include <stdint.h>
#include <sys/types.h>

struct un_error;

/* Exit status of a step or command that has exceeded its timeout. */
#define UN_PROBE_LATE 124

/* Results of run_within() that are not an exit status. */
#define UN_PROBE_CHILD (-1)
#define UN_PROBE_NO_CHILD (-2)

/*
 * Forks a child for a step. Returns UN_PROBE_CHILD in the child.
 *
 * In the parent, waits at most `most` milliseconds for the exit of the child, and then kills and
 * reaps all remaining descendants. Returns the child's exit status, 128+N if signal N killed the
 * child, or UN_PROBE_LATE if the child was still running after that time. If fork(2) fails, returns
 * UN_PROBE_NO_CHILD with the error in `err`.
 */
int run_within(uint64_t most, struct un_error *err);

/* Kills a child, by a pidfd if possible, because a seccomp filter may deny kill(2), or kill a
 * process that calls kill(2). */
void kill_child(pid_t pid);

#endif
