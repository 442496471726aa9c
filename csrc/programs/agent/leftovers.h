/* What a sandbox keeps of processes that have ended, apart from its files. */
#ifndef USERNSCTL_PROGRAMS_AGENT_LEFTOVERS_H
#define USERNSCTL_PROGRAMS_AGENT_LEFTOVERS_H

#include <stdbool.h>

/*
 * Writes to standard output each name in /dev/shm, and each file in /proc/sys that may be written
 * to, as /proc and another procfs show it: the path, NUL, the content (of names in /dev/shm
 * nothing), NUL. Returns false if that can't be read, or is more than anybody has.
 */
bool agent_print_leftovers(void);

#endif
