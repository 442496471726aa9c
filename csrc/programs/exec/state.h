/* The directories that usernsctl keeps from sandboxes. Internal. */
#ifndef USERNSCTL_EXEC_STATE_H
#define USERNSCTL_EXEC_STATE_H

#include "include/usernsctl.h"

/*
 * Each finds the path of a directory, which need not be there, by the variables of an environment,
 * by the same rule as the function of that name in usernsctl/_system/records.py. -1 with errno.
 */
int un_state_directory(char **environment, char path[UN_PATH_MAX]);
/* The path is "" where the caller has no home, and so no templates. */
int un_templates_directory(char **environment, char path[UN_PATH_MAX]);

#endif
