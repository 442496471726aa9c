/* Following a path name by name, by descriptors only. Internal. */
#ifndef USERNSCTL_LAUNCH_WALK_H
#define USERNSCTL_LAUNCH_WALK_H

#include "include/usernsctl.h"

/* So deep may a path lead: each directory on the way is held open. */
#define UN_TRAIL_MAX 256
/* So many symbolic links the kernel follows (path_resolution(7)). */
#define UN_LINKS_MAX 40

/* What was passed on the way, by descriptors (O_PATH). */
struct un_place {
    int fd; /* -1: a directory that nobody but gVisor will have */
    bool is_ours;
    size_t length; /* of its path: the beginning of that of the trail */
};

/* How far a path leads. */
struct un_trail {
    char path[UN_PATH_MAX]; /* of the last file reached, without symbolic links; "" is the root */
    struct un_place place[UN_TRAIL_MAX]; /* from the root to the last file reached */
    size_t count;
    char missing[UN_PATH_MAX]; /* what is left of the path, which does not exist; or "" */
};

/* What an entry of the last directory of a trail is. */
enum un_look {
    UN_LOOK_FAILED = -1, /* errno tells */
    UN_LOOK_FILE,        /* a file, in fd */
    UN_LOOK_LINK,        /* a symbolic link to be followed, which holds `link` */
    UN_LOOK_MISSING
};

struct un_entry {
    int fd;
    bool is_ours;
    char link[UN_PATH_MAX];
};

/* Looks at `name`, of the last directory of the trail, whose path the trail has already. */
typedef enum un_look un_looker(const struct un_trail *trail, const char *name,
                               struct un_entry *found, void *arg);

/* Begins a trail at a root, which stays the caller's. */
void un_trail_begin(struct un_trail *trail, int root);
void un_trail_close(struct un_trail *trail);
/* Follows an absolute path from the root of the trail. ".." leads back on the trail, and never over
 * its root, whatever others have moved meanwhile. -1 with errno: ELOOP where there are too many
 * links, ENAMETOOLONG, or what `look` had. */
int un_walk(struct un_trail *trail, const char *path, un_looker *look, void *arg);

static inline struct un_place *un_trail_last(struct un_trail *trail)
{
    return &trail->place[trail->count - 1];
}

/* An entry of a directory (O_PATH); of a symbolic link, the link itself. -1 with errno. */
int un_child(int directory, const char *name);
/* What a symbolic link holds that is open. -1 with errno. */
int un_read_link(int link, char text[UN_PATH_MAX]);
/* The path that the kernel knows a descriptor by. -1 with errno. */
int un_path_of(int fd, char path[UN_PATH_MAX]);

#endif
