/* The file system of our own that all that is made for a sandbox lies in. Internal. */
#ifndef USERNSCTL_LAUNCH_SCRATCH_H
#define USERNSCTL_LAUNCH_SCRATCH_H

#include "launch/launch.h"

/* Mounts it on the first of the places that is a directory, which only root can replace. */
int un_scratch_mount(struct un_launch *launch, struct un_error *err);
/* Takes it away, with all that is mounted in it. */
void un_scratch_unmount(struct un_launch *launch);

#endif
