/* Reading the files of /etc, line by line, with as few system calls as may be. Internal. */
#ifndef USERNSCTL_BASE_LINES_H
#define USERNSCTL_BASE_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No name is this long; what is longer is no line of such a file. */
#define UN_LINE_MAX 1024

/* A file that is being read. */
struct un_lines {
    int fd;
    int errnum;       /* why no more could be read; 0: nothing was in the way */
    uint64_t size;    /* the file's, when it was opened */
    uint64_t read;    /* how much of it was read */
    size_t at;        /* what of the block was taken ... */
    size_t length;    /* ... of what there is in it */
    char block[8192]; /* most such files are shorter */
};

/* Opens a regular file. False with errno, EISDIR or EINVAL if it is none: in the /etc of a
 * stranger's image there may be a FIFO, that nobody ever writes to, or a device that has no end. */
bool un_lines_open(struct un_lines *lines, const char *path);

/* Whether that is what errno says. */
bool un_lines_is_no_file(int errnum);

/* Reads a line without its newline; false at the end. What does not fit is dropped, and *cut set.
 */
bool un_lines_next(struct un_lines *lines, char line[UN_LINE_MAX], bool *cut);

/* Goes back to the first line. */
void un_lines_rewind(struct un_lines *lines);

void un_lines_close(struct un_lines *lines);

#endif
