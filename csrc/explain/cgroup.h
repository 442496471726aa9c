/* Why a child could not be started in a control group. Internal. */
#ifndef USERNSCTL_EXPLAIN_CGROUP_H
#define USERNSCTL_EXPLAIN_CGROUP_H

#include "include/usernsctl.h"

/* After a refused clone into the cgroup whose directory is open as `dir`: if it was for the sake of
 * that, makes `err`, which has the errno, say what was wrong with it. */
void un_explain_cgroup(struct un_error *err, int dir);

#endif
