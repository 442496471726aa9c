/* Trying something for so long, and no longer. Internal. */
#ifndef USERNSCTL_PROGRAMS_PROBE_H
#define USERNSCTL_PROGRAMS_PROBE_H

#include <stdint.h>
#include <sys/types.h>

/* The exit status where time ran out. */
#define UN_PROBE_LATE 124

/*
 * Has a child go on, to which this returns -1. When that has ended, or after so many milliseconds,
 * all that it has started is killed and waited for. Returns its exit status, 128+N if signal N
 * killed it, or UN_PROBE_LATE; where there is no child, 125.
 */
int run_within(uint64_t most);

/* By descriptor where there is one: a filter may forbid kill(2), and even kill who calls it. */
void kill_child(pid_t pid);

#endif
