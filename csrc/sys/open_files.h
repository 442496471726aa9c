#ifndef USERNSCTL_SYS_OPEN_FILES_H
#define USERNSCTL_SYS_OPEN_FILES_H

#include "include/usernsctl.h"

/* Lets this process, and what comes from it by fork and exec, have no more than `most` descriptors
 * each (RLIMIT_NOFILE, getrlimit(2)). A lower limit stays. Async-signal-safe. */
void un_limit_open_files(uint64_t most);

#endif
