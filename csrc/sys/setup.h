/* Parts of the set-up. Internal. */
#ifndef USERNSCTL_SYS_SETUP_H
#define USERNSCTL_SYS_SETUP_H

#include "include/usernsctl.h"

/* Has this process get the signal `sig` when its parent ends, or fails if that has ended already:
 * the signal never comes from a parent that died before it was asked for. In a new PID namespace
 * getppid() tells nothing, so a descriptor of the parent does. Async-signal-safe. */
int un_die_with_parent(int sig, int parent_pidfd, struct un_error *err);

#endif
