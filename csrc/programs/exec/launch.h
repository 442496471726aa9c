/* usernsctl-exec --launch FILE. Internal. */
#ifndef USERNSCTL_EXEC_LAUNCH_H
#define USERNSCTL_EXEC_LAUNCH_H

#include "programs/exec/options.h"

/* Performs the launch in a file, with the words that came with it. Returns only if that failed, and
 * it was said why: the exit status. To check is to do all but the last step, the exec: 0 if that is
 * all that there is left to do. */
int un_exec_launch(const struct un_options *options);

#endif
