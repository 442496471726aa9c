/* Performing a launch. Internal. */
#ifndef USERNSCTL_LAUNCH_H
#define USERNSCTL_LAUNCH_H

#include "launch/verbs.h"

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* ---- launch.c: a launch that is performed, from inside --------------------------------------- */

/* What the program that waits for runsc is told so by, before all its other words. */
#define UN_RERAISE_SIGNAL "--reraise-signal"

struct un_record {
    enum un_verb verb;
    const char *words; /* its arguments, one after the other */
};

/* A file of the machine that is held. */
struct un_source {
    int fd;       /* -1: not opened yet */
    bool is_ours; /* to close */
    char *path;   /* without symbolic links */
};

/* What runsc is to bind. */
struct un_bind {
    char *shown;  /* the path to bind from */
    char *inside; /* the path to bind to */
};

/* What will be seen at a path inside once runsc has mounted it. */
struct un_cover {
    char *inside; /* the path, without symbolic links */
    char *source; /* what the file is called outside; "" for nothing of the machine's */
    int fd;       /* O_PATH */
};

struct un_view {
    int top;                /* the root filesystem (O_PATH); -1: there is none yet */
    struct un_cover *cover; /* in the order in which they were noted */
    size_t cover_count;
    struct un_idmap *owners; /* see un_view_set_owners(); or NULL */
};

/* The root filesystem in the making. All descriptors are O_PATH; -1: not there yet. */
struct un_root {
    int scratch; /* the directory that all of it is in */
    int spare;   /* what is mounted somewhere below top */
    int shown;   /* what runsc will bind */
    dev_t device;
    unsigned count;      /* of entries made in spare and shown */
    uid_t machine_owner; /* who owns / of the machine, if that is shown ... */
    bool has_machine;    /* ... and whether it is */
};

struct un_launch {
    const char *version; /* of the package that wrote it */
    struct un_record *record;
    size_t record_count;
    size_t of_verb[UN_VERB_COUNT]; /* how many records of each there are */
    struct un_source *source;      /* as many as there are such records ... */
    struct un_bind *bind;          /* ... and here, too ... */
    size_t bind_count;             /* ... of which so many are done */
    bool is_root;                  /* whether whoever opened the sources is */
    struct un_root root;
    struct un_view view; /* of the root filesystem, and of what runsc will mount on it */
    struct un_marks marks;
    char remedy[UN_PATH_MAX]; /* of the last failure; "": its cause has one, or nobody */
    char filename[UN_PATH_MAX];
};

/* Returns an argument of a record. */
const char *un_record_word(const struct un_record *record, size_t number);
/* Returns the source that an argument of a record names. */
struct un_source *un_record_source(const struct un_launch *launch, const struct un_record *record,
                                   size_t number);
/* Returns the first record with this verb behind `record`, or of all if that is NULL; or NULL. */
const struct un_record *un_launch_next(const struct un_launch *launch, enum un_verb verb,
                                       const struct un_record *record);
#define UN_EACH_RECORD(record, launch, verb)                                                       \
    for (const struct un_record *record = NULL; (record = un_launch_next(launch, verb, record));)
static inline const struct un_record *un_launch_first(const struct un_launch *launch,
                                                      enum un_verb verb)
{
    return un_launch_next(launch, verb, NULL);
}

/* Records a failure of a call by errno, about a file. Returns -1. */
int un_launch_fail_file(struct un_launch *launch, const char *path, struct un_error *err);
/* What mends the failure that is about to be recorded, and which path it is about, by printf's
 * rules and as it is. Either may be NULL. */
void un_launch_tell(struct un_launch *launch, const char *filename, const char *remedy, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails unless each program is still found by its path: a mount may cover it. */
int un_check_programs(struct un_launch *launch, struct un_error *err);

/* ---- json.c: text for a config.json ---------------------------------------------------------- */

/* A text that grows. */
struct un_text {
    char *bytes;
    size_t length;
    size_t room;
    bool failed; /* there was no memory */
};

void un_text_add(struct un_text *text, const char *more);
/* Adds a JSON string. Returns false if it is not UTF-8, so that no JSON string can hold it. */
bool un_text_add_string(struct un_text *text, const char *value);
void un_text_add_number(struct un_text *text, uint64_t number);
void un_text_free(struct un_text *text);

/* ---- walk.c: following a path name by name, by descriptors only ------------------------------ */

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
    bool is_limited; /* whether ENAMETOOLONG came of a limit of ours, and not of the kernel's */
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
/* Keeps errno. */
void un_trail_close(struct un_trail *trail);
#define un_auto_trail __attribute__((cleanup(un_trail_close)))
/* Follows an absolute path from the root of the trail. ".." leads back on the trail, and never over
 * its root, whatever others have moved meanwhile. -1 with errno: ELOOP where there are too many
 * links, ENAMETOOLONG, or what `look` had. */
int un_walk(struct un_trail *trail, const char *path, un_looker *look, void *arg);

static inline struct un_place *un_trail_last(struct un_trail *trail)
{
    return &trail->place[trail->count - 1];
}

/* Opens an entry of a directory (O_PATH); of a symbolic link, the link itself. -1 with errno. */
int un_child(int directory, const char *name);
/* What a symbolic link holds that is open. -1 with errno. */
int un_read_link(int link, char text[UN_PATH_MAX]);
/* Reads the path that the kernel knows a descriptor by. -1 with errno. */
int un_path_of(int fd, char path[UN_PATH_MAX]);

/* ---- follow.c: files outside, opened once ---------------------------------------------------- */

/*
 * Each opens a file of this machine (O_PATH, close-on-exec, not one of the standard descriptors)
 * by an absolute path, and tells the path that the kernel knows, in `real`. -1 with errno.
 */

/* Follows symbolic links of root's and the caller's only. One that is somebody else's is EACCES;
 * *foreign is its owner then, and `real` where it is; else *foreign is -1. */
int un_open_follow(const char *path, char real[UN_PATH_MAX], int64_t *foreign);
/* Wherever links lead: a program of ours or of the caller's. */
int un_open_own(const char *path, char real[UN_PATH_MAX]);
/* Follows no symbolic links at all. */
int un_open_exact(const char *path, char real[UN_PATH_MAX]);
/* Looks at a name for un_walk(), so that symbolic links lead anywhere. `arg` is not used. */
un_looker un_look_anywhere;
/* Opens the file that `fd` refers to, at the path that it was found by, in the mount namespace that
 * this process is in by now: the kernel binds nothing by a descriptor of another one. ESTALE: there
 * is another file by now. */
int un_open_here(int fd, const char *path);
/* Returns whether nobody but the caller and root is in a group: it is root's, or has the caller's
 * number and no members. */
bool un_group_is_private(gid_t gid);

/* ---- kernel_files.c: files that act on the kernel -------------------------------------------- */

/* Refuses to have a program inside write to what acts on the kernel, by a source that was opened
 * here: whoever hands descriptors in has looked at them. Devices are no such files. */
int un_refuse_kernel_files(struct un_launch *launch, struct un_error *err);

/* ---- view.c: the directory tree that a sandbox will see -------------------------------------- */

/* Closes and frees all that a view has, but the view itself. */
void un_view_clear(struct un_view *view);
/* Follows an absolute path inside, and the symbolic links on it, as the kernel will do there. The
 * trail is to be closed, if this fails, too. -1 with errno. */
int un_view_walk(const struct un_view *view, const char *path, struct un_trail *trail);
/* Returns where a walk has come to, as seen inside. */
const char *un_view_inside(const struct un_trail *trail);
/* Writes where the path leads inside, whether or not it exists. -1 with errno. */
int un_view_wanted(const struct un_trail *trail, char wanted[UN_PATH_MAX]);
/* Returns whether a walk has come to a directory. */
bool un_view_is_directory(struct un_trail *trail);
/* Returns whether the sandbox will have a directory at this absolute path. */
bool un_view_has_directory(const struct un_view *view, const char *inside);
/* Returns whether a path inside lies where gVisor alone knows what there is: in /proc, /sys or
 * /dev. */
bool un_view_is_of_gvisor(const char *inside);
/* Returns the innermost cover that shows the path of a place, its first `length` bytes; or NULL. */
const struct un_cover *un_view_cover_at(const struct un_view *view, const char *path,
                                        size_t length);

/* ---- command.c: whether the sandbox has the command ------------------------------------------ */

/* Checks the command of a moment, as un_view_check_command() does: a command that is missing fails
 * before runsc is started. What that leaves to the sandbox, usernsctl-verify tells. */
int un_launch_check_command(struct un_launch *launch, const struct un_moment *moment,
                            struct un_error *err);

/* ---- place.c: places inside where something is to be shown ----------------------------------- */

/* Makes a file or directory, and those on the way to it, unless there is one, and walks there.
 * `for_runsc`: whether runsc goes there by the path. The trail is to be closed in any case. */
int un_place_make(struct un_launch *launch, const char *inside, bool is_directory, bool for_runsc,
                  struct un_trail *trail, struct un_error *err);
/* The error that a mount point would have to be made where another mount shows something. */
int un_place_fail_missing(struct un_launch *launch, const struct un_trail *trail,
                          struct un_error *err);

/* ---- root.c: the root filesystem of a sandbox in the making ---------------------------------- */

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

/* ---- scratch.c: the file system of our own that all that is made for a sandbox lies in ------- */

/* Mounts it on the first of the places that is a directory, which only root can replace. */
int un_scratch_mount(struct un_launch *launch, struct un_error *err);
/* Takes it away, with all that is mounted in it. */
void un_scratch_unmount(struct un_launch *launch);

/* ---- snapshot.c: a copy of what everybody may read ------------------------------------------- */

/* Directories are walked no deeper than this. */
#define UN_DEPTH_MAX 128

/* Returns whether every user may read a file, or list and enter a directory, of this mode. */
static inline bool un_is_public(mode_t mode)
{
    mode_t wanted = S_ISDIR(mode) ? 05 : 04;
    return (mode & wanted) == wanted;
}

/* Copies what is in the directory `source`, and below, to the empty directory `target`: up to a
 * limit, what is more is bound. Of a file or directory that not everybody may read there is an
 * empty one. Modes are kept, and symbolic links; devices, pipes and sockets are left out. */
int un_snapshot(struct un_launch *launch, int source, int target, struct un_error *err);

/* ---- private.c: what not every user may read ------------------------------------------------- */

/* Covers the files and directories below `directory` that not every user may read, each by an empty
 * one. What is in such a directory is not listed, and symbolic links are not followed. What
 * vanishes meanwhile is left out. */
int un_hide_private(struct un_launch *launch, int directory, const char *name,
                    struct un_error *err);

/* ---- steps: what a launch does to the root filesystem, by its records ------------------------ */

typedef int un_step_taker(struct un_launch *launch, const struct un_record *record,
                          struct un_error *err);

/* host_dirs.c: directories of the host. */
un_step_taker un_step_machine, un_step_snapshot, un_step_guarded, un_step_tree,
    un_step_hide_private;
/* root_dirs.c: directories, links and resolv.conf. */
un_step_taker un_step_directory, un_step_link, un_step_resolver;
/* bind_mounts.c: files and directories at a path inside. */
un_step_taker un_step_file, un_step_bind, un_step_mount;
/* files.c: files beside the root filesystem. */
un_step_taker un_step_make, un_step_tmpfs, un_step_touch, un_step_discard;
un_step_taker un_step_debug_log, un_step_program, un_step_program_link;

/* sandbox_home.c: covers a home of the host by an empty directory. */
int un_hide_home(struct un_launch *launch, const char *home, struct un_error *err);

/* ---- config.c: the config.json of a launch --------------------------------------------------- */

/* Puts it together, with the maps of the user namespace, of which `maps` may be NULL if no record
 * asks for them. The text is to be freed in any case. */
int un_config_text(struct un_launch *launch, const struct un_moment *moment,
                   const struct un_idmap *maps, struct un_text *text, struct un_error *err);
/* Writes it to bundle/config.json in scratch; nothing if the launch has none. */
int un_config_write(struct un_launch *launch, const struct un_moment *moment,
                    const struct un_idmap *maps, struct un_error *err);
/* Returns how many ids of a kind there are in a map. */
uint64_t un_map_ids(const struct un_map *map);

/* ---- give_up.c: what is given up before runsc is executed ------------------------------------ */

/* Gives up what the launch says, for good, and looks whether it is gone. `has_several`: whether the
 * user namespace has more ids than one. */
int un_give_up(struct un_launch *launch, bool has_several, struct un_error *err);

#endif
