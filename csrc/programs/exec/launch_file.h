/* The file that a launch is kept in. Internal. */
#ifndef USERNSCTL_EXEC_LAUNCH_FILE_H
#define USERNSCTL_EXEC_LAUNCH_FILE_H

#include "include/usernsctl.h"

/* Reads a launch from a file that nobody but root and the caller can have written. *bytes is to be
 * freed in any case, once the launch is closed. */
int un_launch_file_read(const char *file, char **bytes, struct un_launch **launch,
                        struct un_error *err);

#endif
