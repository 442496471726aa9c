/* This process: who may look into it, and its directory in /proc. Internal. */
#ifndef USERNSCTL_SYS_SELF_H
#define USERNSCTL_SYS_SELF_H

#include "include/usernsctl.h"

/* Makes this process one that only who has CAP_SYS_PTRACE in the user namespace that it was
 * executed in may look into, until it executes something (PR_SET_DUMPABLE(2const)). A change of
 * credentials may undo it (/proc/sys/fs/suid_dumpable). Async-signal-safe. */
void un_hide_process(void);

/* Opens /proc/self. Returns a descriptor, or -1. Async-signal-safe. */
int un_open_self(struct un_error *err);

#endif
