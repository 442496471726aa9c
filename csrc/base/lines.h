/* Reading the files of /etc, line by line. Internal. */
#ifndef USERNSCTL_BASE_LINES_H
#define USERNSCTL_BASE_LINES_H

#include <stdbool.h>
#include <stdio.h>

/* No name is this long; what is longer is no line of such a file. */
#define UN_LINE_MAX 1024

/* Opens a regular file; NULL with errno, EISDIR or EINVAL if it is none: in the /etc of a
 * stranger's image there may be a FIFO, that nobody ever writes to, or a device that has no end. */
FILE *un_lines_open(const char *path);

/* Reads a line without its newline; false at the end. What does not fit is dropped, and *cut set.
 */
bool un_lines_next(FILE *file, char line[UN_LINE_MAX], bool *cut);

#endif
