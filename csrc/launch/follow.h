/* Files outside, opened once. Internal. */
#ifndef USERNSCTL_LAUNCH_FOLLOW_H
#define USERNSCTL_LAUNCH_FOLLOW_H

#include "launch/walk.h"

/*
 * Each opens a file of this machine (O_PATH, close-on-exec, not one of the standard descriptors)
 * by an absolute path, and tells the path that the kernel knows, in `real`. -1 with errno.
 */

/* Follows symbolic links of root's and the caller's only. One that is somebody else's is EACCES;
 * *foreign is its owner then, and `real` where it is; else *foreign is -1. */
int un_open_follow(const char *path, char real[UN_PATH_MAX], int64_t *foreign);
/* Wherever links lead: a program of ours or of the caller's. */
int un_open_own(const char *path, char real[UN_PATH_MAX]);
/* Follows no symbolic links at all. */
int un_open_exact(const char *path, char real[UN_PATH_MAX]);
/* Looks at a name for un_walk(), so that symbolic links lead anywhere. `arg` is not used. */
un_looker un_look_anywhere;
/* The file that `fd` refers to, at the path that it was found by, in the mount namespace that this
 * process is in by now: the kernel binds nothing by a descriptor of another one. ESTALE: there is
 * another file by now. */
int un_open_here(int fd, const char *path);
/* Whether nobody but the caller and root is in a group: it is root's, or has the caller's number
 * and no members. */
bool un_group_is_private(gid_t gid);

#endif
