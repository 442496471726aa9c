/* Whether the sandbox has the command. Internal. */
#ifndef USERNSCTL_LAUNCH_COMMAND_H
#define USERNSCTL_LAUNCH_COMMAND_H

#include "launch/launch.h"

/*
 * Checks that the command of a moment can be found and executed in the root filesystem that was
 * built, by its descriptors: a command that is missing fails before runsc is started. What only
 * gVisor knows, and what we may not look at, is left to usernsctl-verify. check() in
 * usernsctl/gvisor/launch/view.py has the same rule for Python.
 */
int un_launch_check_command(struct un_launch *launch, const struct un_moment *moment,
                            struct un_error *err);
/* Whether a path inside lies where only gVisor knows what is there. */
bool un_launch_is_unknown(const char *inside);

#endif
