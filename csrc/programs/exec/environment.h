/* The environment of a command in a launch. Internal. */
#ifndef USERNSCTL_EXEC_ENVIRONMENT_H
#define USERNSCTL_EXEC_ENVIRONMENT_H

#include "launch/launch.h"

/* What a launch asks for, of the caller's environment and its own: *made ends with NULL, and is to
 * be freed in any case. */
int un_environment_make(const struct un_launch *launch, char **environment, const char ***made,
                        struct un_error *err);

/* The value of a variable, or NULL. */
const char *un_environment_value(char **environment, const char *name);

#endif
