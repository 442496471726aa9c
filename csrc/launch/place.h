/* Places inside where something is to be shown. Internal. */
#ifndef USERNSCTL_LAUNCH_PLACE_H
#define USERNSCTL_LAUNCH_PLACE_H

#include "launch/launch.h"
#include "launch/walk.h"

/* Makes a file or directory, and those on the way to it, unless there is one, and walks there.
 * `for_runsc`: whether runsc goes there by the path. The trail is to be closed in any case. */
int un_place_make(struct un_launch *launch, const char *inside, bool is_directory, bool for_runsc,
                  struct un_trail *trail, struct un_error *err);
/* The error that a mount point would have to be made where another mount shows something. */
int un_place_fail_missing(struct un_launch *launch, const struct un_trail *trail,
                          struct un_error *err);

#endif
