/* The directory tree that the command will see. Internal. */
#ifndef USERNSCTL_LAUNCH_VIEW_H
#define USERNSCTL_LAUNCH_VIEW_H

#include "launch/launch.h"
#include "launch/walk.h"

/* Follows an absolute path inside, and the symbolic links on it, as the kernel will do there. The
 * trail is to be closed, if this fails, too. -1 with errno. */
int un_view_walk(const struct un_launch *launch, const char *path, struct un_trail *trail);
/* Where a walk has come to, as seen inside. */
const char *un_view_inside(const struct un_trail *trail);
/* Where the path leads inside, whether or not it exists. -1 with errno. */
int un_view_wanted(const struct un_trail *trail, char wanted[UN_PATH_MAX]);
/* Whether a walk has come to a directory. */
bool un_view_is_directory(struct un_trail *trail);
/* The innermost cover that shows the path of a place, its first `length` bytes; or NULL. */
const struct un_cover *un_view_cover_at(const struct un_launch *launch, const char *path,
                                        size_t length);
/* Notes that runsc will show a file at a path inside that has no symbolic links. The first of two
 * at the same place counts. The descriptor becomes the launch's. -1 with errno. */
int un_view_add(struct un_launch *launch, const char *inside, const char *source, int fd);

#endif
