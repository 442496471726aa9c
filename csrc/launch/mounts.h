/* What is mounted where. Internal. */
#ifndef USERNSCTL_LAUNCH_MOUNTS_H
#define USERNSCTL_LAUNCH_MOUNTS_H

#include "include/usernsctl.h"

/* Which directory of which file system is where (proc_pid_mountinfo(5)). */
struct un_mounted {
    int id;
    const char *device; /* of the file system, MAJOR:MINOR */
    const char *root;   /* the directory of it that is mounted */
    const char *point;  /* where, as this process sees it */
    const char *type;   /* of the file system */
};

/* All mounts that this process sees. */
struct un_mounts {
    char *text;
    struct un_mounted *mount;
    size_t count;
};

/* Reads them; to be freed in any case. -1 with errno. */
int un_mounts_read(struct un_mounts *mounts);
void un_mounts_free(struct un_mounts *mounts);
/* The mount that an open file was reached by: NULL if it is one of another mount namespace. -1 with
 * errno. */
int un_mounts_find(const struct un_mounts *mounts, int fd, const struct un_mounted **found);
/* Whether a path is `top`, or below it. */
bool un_is_below(const char *path, const char *top);

#endif
