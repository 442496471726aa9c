/* What a process writes about its own new user namespace. Internal. */
#ifndef USERNSCTL_SYS_OWN_MAPS_H
#define USERNSCTL_SYS_OWN_MAPS_H

#include "include/usernsctl.h"

/*
 * The files in the directory of a process in /proc, in the order in which they are to be written:
 * "deny" must be there before an unprivileged process writes gid_map, and can't be written after it
 * (user_namespaces(7), "The /proc/PID/setgroups file").
 */
enum { UN_FILE_SETGROUPS, UN_FILE_UID_MAP, UN_FILE_GID_MAP, UN_MAP_FILES };

struct un_map_file {
    const char *name;
    enum un_step step; /* that of a failure */
};

extern const struct un_map_file un_map_files[UN_MAP_FILES];

/* Opens one of them to be written: a descriptor, or -1. Async-signal-safe. */
int un_map_file_open(int dir, int file, struct un_error *err);
/* Writes all of it. Async-signal-safe. */
int un_map_file_write(int fd, int file, const char *text, struct un_error *err);

struct un_own_maps {
    const char *policy; /* for setgroups; NULL: nothing is written there */
    const char *map[2]; /* the kernel's text, by enum un_kind; NULL: nothing is written */
    bool is_root;       /* whether we are uid 0 of the namespace that we come from */
};

/* Makes namespaces by unshare(2), a user namespace among them, and writes its maps. The process
 * must be hidden, and is so all the time but for three calls of open(2), for uid 0 then too.
 * Async-signal-safe. */
int un_make_and_map(uint64_t flags, const struct un_own_maps *maps, struct un_error *err);

#endif
