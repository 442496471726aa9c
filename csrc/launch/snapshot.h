/* A copy of what everybody may read. Internal. */
#ifndef USERNSCTL_LAUNCH_SNAPSHOT_H
#define USERNSCTL_LAUNCH_SNAPSHOT_H

#include "launch/launch.h"

#include <sys/stat.h>

/* Directories are walked no deeper than this. */
#define UN_DEPTH_MAX 128

/* Whether every user may read a file, or list and enter a directory, of this mode. */
static inline bool un_is_public(mode_t mode)
{
    mode_t wanted = S_ISDIR(mode) ? 05 : 04;
    return (mode & wanted) == wanted;
}

/* Copies what is in the directory `source`, and below, to the empty directory `target`: up to a
 * limit, what is more is bound. Of a file or directory that not everybody may read there is an
 * empty one. Modes are kept, and symbolic links; devices, pipes and sockets are left out. */
int un_snapshot(struct un_launch *launch, int source, int target, struct un_error *err);

#endif
