/* What is known only when a launch is performed. Internal. */
#ifndef USERNSCTL_EXEC_MOMENT_H
#define USERNSCTL_EXEC_MOMENT_H

#include "launch/launch.h"
#include "programs/exec/homes.h"

#include <sys/utsname.h>

/* A moment, and the memory that it lies in. */
struct moment {
    struct un_moment is;
    const char **args;
    const char **env;
    struct un_homes homes;
    char cwd[UN_PATH_MAX];
    struct utsname host;
};

/* Takes it from the caller: outside of the namespaces. `command` are the words after --, which take
 * the place of the launch's own. What was taken is to be dropped in any case. */
int un_moment_take(const struct un_launch *launch, const char *const *command, char **environment,
                   struct moment *moment, struct un_error *err);
/* Decides where the command starts, once the root filesystem is made, and sees that it is there. */
int un_moment_settle(struct un_launch *launch, struct moment *moment, struct un_error *err);
void un_moment_drop(struct moment *moment);

#endif
