/* Where usernsctl keeps its state. Internal. */
#ifndef USERNSCTL_EXEC_STATE_H
#define USERNSCTL_EXEC_STATE_H

#include "include/usernsctl.h"

/* The path of the directory, which need not be there, by the variables of an environment; the same
 * rule as state_directory() of Python. -1 with errno. */
int un_state_directory(char **environment, char path[UN_PATH_MAX]);

#endif
