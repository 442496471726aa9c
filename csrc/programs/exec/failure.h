/* What failed before libc was started. Internal. */
#ifndef USERNSCTL_EXEC_FAILURE_H
#define USERNSCTL_EXEC_FAILURE_H

#include "include/usernsctl.h"

/* What failed once a namespace was made, to be explained by main(). No step: nothing did. */
extern struct un_error un_first_failure;

#endif
