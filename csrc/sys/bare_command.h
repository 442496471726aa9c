/*
 * Starting a bare command: one that changes nothing of what it is and where (no namespace, no root,
 * no ids, no capabilities), so that the child may execute it at once. Internal.
 */
#ifndef USERNSCTL_SYS_BARE_COMMAND_H
#define USERNSCTL_SYS_BARE_COMMAND_H

#include "include/usernsctl.h"

bool un_spawn_is_bare(const struct un_spawn *spawn);

/* Starts it, with those signals blocked that we block. A failure of the clone has UN_STEP_CLONE,
 * and no cause. */
int un_spawn_bare(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);

/* What is no matter of namespaces, and is done in a child of any kind before it executes anything.
 * `arg` is a struct un_spawn. Async-signal-safe. */
int un_spawn_prepare(const void *arg, struct un_error *err);

#endif
