/* What not every user may read. Internal. */
#ifndef USERNSCTL_LAUNCH_PRIVATE_H
#define USERNSCTL_LAUNCH_PRIVATE_H

#include "launch/launch.h"

/* Covers the files and directories below `directory` that not every user may read, each by an empty
 * one. What is in such a directory is not listed, and symbolic links are not followed. What
 * vanishes meanwhile is left out. */
int un_hide_private(struct un_launch *launch, int directory, const char *name,
                    struct un_error *err);

#endif
