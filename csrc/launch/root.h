/* The root filesystem of a sandbox in the making. Internal. */
#ifndef USERNSCTL_LAUNCH_ROOT_H
#define USERNSCTL_LAUNCH_ROOT_H

#include "launch/launch.h"
#include "launch/walk.h"

#include <dirent.h>
#include <sys/stat.h>

/* mount_setattr(2), linux/mount.h. */
#define UN_ATTR_RDONLY 1
#define UN_ATTR_NOSUID 2
#define UN_ATTR_NODEV 4
/* What nothing that is shown is for. A device that somebody has put into a root filesystem would be
 * the machine's: as root, runsc could open it. */
#define UN_ATTR_HARMLESS (UN_ATTR_NOSUID | UN_ATTR_NODEV)

/*
 * What follows fills in `err` where it can fail, and returns -1. A failure of a call that is about
 * a file has the step UN_STEP_SANDBOX; a refused mount has UN_STEP_MOUNT.
 */

/* Makes the directories of the root filesystem in scratch, which is open. */
int un_root_begin(struct un_launch *launch, struct un_error *err);

/* Makes a directory or an empty file, and opens it: a descriptor, or -1. */
int un_root_make(struct un_launch *launch, int parent, const char *name, bool is_directory,
                 struct un_error *err);
/* The same under a new name in spare or shown. `name` may be NULL. */
int un_root_new(struct un_launch *launch, int directory, bool is_directory, char name[16],
                struct un_error *err);
/* Changes the mode of an open file, whatever that is: it need not be open to be read. */
int un_root_set_mode(struct un_launch *launch, int fd, mode_t mode, const char *name,
                     struct un_error *err);
/* fstat(2). */
int un_root_status(struct un_launch *launch, int fd, const char *name, struct stat *status,
                   struct un_error *err);
/* Makes a symbolic link that holds what `link` does. */
int un_root_copy_link(struct un_launch *launch, int link, int directory, const char *name,
                      struct un_error *err);

/* Shows `source` somewhere in `directory`, spare or shown, and opens what is seen there: a
 * descriptor, or -1. `name` may be NULL. */
int un_root_show(struct un_launch *launch, int source, int directory, uint64_t attributes,
                 char name[16], struct un_error *err);
/* Covers a file or directory that is shown, by an empty one. */
int un_root_hide(struct un_launch *launch, int file, const char *name, struct un_error *err);
/* Shows in the directory `target` what is in `source`, each entry by itself, but for those in
 * `without`, which ends with NULL. */
int un_root_mirror(struct un_launch *launch, int source, int target, const char *const *without,
                   struct un_error *err);

/* The entries of a directory: opens a listing, and gives the next, or NULL at the end and where
 * that failed; *failed tells. */
DIR *un_root_list(struct un_launch *launch, int directory, const char *name, struct un_error *err);
const struct dirent *un_root_next(struct un_launch *launch, DIR *listing, const char *name,
                                  int *failed, struct un_error *err);

#endif
