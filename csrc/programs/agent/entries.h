/* The names in a directory, without a libc. */
#ifndef USERNSCTL_PROGRAMS_AGENT_ENTRIES_H
#define USERNSCTL_PROGRAMS_AGENT_ENTRIES_H

#include <stdbool.h>

/* Takes one name; returns whether to go on. */
typedef bool agent_take_entry(const char *name, void *arg);

/* Reads the directory `name` in `dir`, by a descriptor of its own, so that several processes may
 * read it at once. "." and ".." are left out. Returns whether it was read to its end; if it can't
 * be read, errno says why. */
bool agent_each_entry(int dir, const char *name, agent_take_entry *take, void *arg);

#endif
