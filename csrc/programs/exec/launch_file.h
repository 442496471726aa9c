/* The file that a launch is kept in. Internal. */
#ifndef USERNSCTL_EXEC_LAUNCH_FILE_H
#define USERNSCTL_EXEC_LAUNCH_FILE_H

#include "include/usernsctl.h"

struct un_launch_file {
    int fd;      /* -1: not opened */
    char *bytes; /* what is in it */
};

/* Reads a launch from a file that nobody but root and the caller can have written, or put there.
 * It is to be closed in any case, once the launch is. */
int un_launch_file_read(const char *file, struct un_launch_file *of, struct un_launch **launch,
                        struct un_error *err);
/* Has a failure say which file it is about: that is not known where a launch is read. Returns -1.
 */
int un_launch_file_name(const char *file, struct un_error *err);
void un_launch_file_close(struct un_launch_file *of);

#endif
