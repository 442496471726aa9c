/* usernsctl-exec --launch FILE. Internal. */
#ifndef USERNSCTL_EXEC_LAUNCH_H
#define USERNSCTL_EXEC_LAUNCH_H

#include "include/usernsctl.h"

/* Performs the launch in a file; `command` are the words that came with it. Returns only if that
 * failed, and it was said why: the exit status. */
int un_exec_launch(const char *file, const char *const *command);

#endif
