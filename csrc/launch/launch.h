/* Functions that perform a launch. Internal. */
#ifndef USERNSCTL_LAUNCH_H
#define USERNSCTL_LAUNCH_H

#include "launch/verbs.h"

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* ---- launch.c: the state of a launch --------------------------------------------------------- */

/* Option of the watcher (usernsctl-watch), which precedes its other arguments: the watcher kills
 * itself by the signal that killed the command. */
#define UN_RERAISE_SIGNAL "--reraise-signal"
/* Option of the watcher to print its messages in JSON. */
#define UN_LOG_JSON "--log=json"
/* Option of the watcher with the limits of the sandbox (programs/shared/limits.c). */
#define UN_LIMITS "--limits="
/* Option of the watcher with the file for the result of the command (programs/watch/result.c). */
#define UN_RESULT "--result="
#define UN_DENIED "--denied="
/* Option of the watcher with the size limit of the command's output (programs/watch/pump.c). */
#define UN_MAX_OUTPUT "--max-output="
/* Option of the watcher that must be set if the command uses a terminal. */
#define UN_TERMINAL "--terminal"
/* Option of the watcher with the timeout in seconds for the start of the sandbox. */
#define UN_START_TIMEOUT "--start-timeout="

struct un_record {
    enum un_verb verb;
    const char *arguments; /* arguments of the record, each terminated by NUL */
};

/* A source of a launch: a file of the host that the launch opens. */
struct un_source {
    int fd;       /* descriptor of the file; -1 before the file is opened */
    bool is_ours; /* whether the launch closes fd */
    char *path;   /* path of the file, without symbolic links */
};

/* A bind mount that runsc will make. */
struct un_bind {
    char *source;      /* path of the source, which no other process can change */
    char *destination; /* path of the destination, without symbolic links */
};

/* A mount that runsc will make at a path inside the sandbox. */
struct un_cover {
    char *inside; /* path of the mount point, without symbolic links */
    char *source; /* path of the mounted file on the host; "" if no file of the host is mounted */
    int fd;       /* O_PATH descriptor of the mounted file */
};

struct un_view {
    int top;                /* O_PATH descriptor of the root filesystem; -1 before it exists */
    struct un_cover *cover; /* mounts that runsc will make, in the order of un_view_add() */
    size_t cover_count;
    struct un_idmap *owners; /* ids that the sandbox maps (un_view_set_owners()), or NULL */
};

/* The root filesystem under construction. The descriptors are opened with O_PATH, and a descriptor
 * is -1 before its directory exists. */
struct un_root {
    int scratch; /* root directory of the tmpfs that holds all files of the sandbox */
    int spare;   /* directory for files that will be mounted below view.top */
    int shown;   /* directory for the sources of runsc's bind mounts */
    dev_t device;
    unsigned count; /* number of entries created in the directories `spare` and `shown`, for unique
                       names */
    uid_t machine_owner; /* owner of the host's root directory, if has_machine is set */
    bool has_machine;    /* whether the sandbox sees directories of the host */
};

struct un_launch {
    const char *version; /* version of the package that wrote the launch */
    struct un_record *record;
    size_t record_count;
    size_t of_verb[UN_VERB_COUNT]; /* number of records of each verb, indexed by enum un_verb */
    struct un_source *source;      /* array of of_verb[UN_VERB_SOURCE] sources */
    struct un_bind *bind;          /* array with room for of_verb[UN_VERB_BIND] bind mounts */
    size_t bind_count;             /* number of bind mounts in `bind` */
    bool is_root;                  /* whether the process that opened the sources was root */
    struct un_root root;
    struct un_view view; /* the root filesystem, and the mounts that runsc will make on it */
    struct un_marks marks;
    char remedy[UN_PATH_MAX]; /* remedy of the last failure; "" if the remedy of the failure's cause
                                 applies */
    char filename[UN_PATH_MAX];
};

/* Returns the argument of a record with the index `number`, counted from 0. */
const char *un_record_argument(const struct un_record *record, size_t number);
/* Returns the source to which argument `number` of a record refers. */
struct un_source *un_record_source(const struct un_launch *launch, const struct un_record *record,
                                   size_t number);
/* Returns the next record with the given verb after `record`, or the first record with the verb if
 * `record` is NULL. Returns NULL if there is none. */
const struct un_record *un_launch_next(const struct un_launch *launch, enum un_verb verb,
                                       const struct un_record *record);
#define UN_EACH_RECORD(record, launch, verb)                                                       \
    for (const struct un_record *record = NULL; (record = un_launch_next(launch, verb, record));)
static inline const struct un_record *un_launch_first(const struct un_launch *launch,
                                                      enum un_verb verb)
{
    return un_launch_next(launch, verb, NULL);
}

/* Fills in `err` from errno, after a system call on the file `path` has failed. Returns -1. */
int un_launch_fail_file(struct un_launch *launch, const char *path, struct un_error *err);
/* Sets the remedy, formatted as by printf(3), and the path of the file for the failure that is
 * about to be recorded. `filename` and `remedy` may be NULL. */
void un_launch_set_remedy(struct un_launch *launch, const char *filename, const char *remedy, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails if the path of a program no longer leads to the program, because a mount covers a part of
 * the path. */
int un_check_programs(struct un_launch *launch, struct un_error *err);

/* ---- json.c: building the text of config.json ------------------------------------------------ */

/* A string that grows as text is added. */
struct un_text {
    char *bytes;
    size_t length;
    size_t room;
    bool failed; /* whether an allocation failed */
};

void un_text_add(struct un_text *text, const char *more);
/* Adds a JSON string. Returns false if `value` is not valid UTF-8. */
bool un_text_add_string(struct un_text *text, const char *value);
void un_text_add_number(struct un_text *text, uint64_t number);
/* Terminates the text by NUL. Returns the text, or NULL if an allocation failed. */
const char *un_text_end(struct un_text *text);
void un_text_free(struct un_text *text);

/* ---- walk.c: resolving a path component by component, by descriptors ------------------------- */

/* Maximum number of directories on a resolved path. A descriptor stays open for each of them. */
#define UN_TRAIL_MAX 256
/* Maximum number of symbolic links in a path, as in the kernel (path_resolution(7)). */
#define UN_LINKS_MAX 40

/* A file or directory on a resolved path. */
struct un_place {
    int fd; /* O_PATH descriptor of the file; -1 for a directory that only gVisor will create */
    bool is_ours;
    size_t length; /* length of the file's path, a prefix of trail->path */
};

/* The state of a path resolution: the files from the root directory to the last one reached. */
struct un_trail {
    char path[UN_PATH_MAX]; /* path of the last file, without symbolic links; "" for the root
                               directory */
    struct un_place place[UN_TRAIL_MAX]; /* all files on the path, from the root to the last one */
    size_t count;
    char missing[UN_PATH_MAX]; /* remaining components of the path, which do not exist; "" if the
                                  entire path exists */
    bool is_limited; /* whether a failure with ENAMETOOLONG is caused by a limit of this code, not
                        by the kernel's limit */
};

/* Results of looking up a name in a directory. */
enum un_lookup {
    UN_LOOKUP_FAILED = -1, /* the lookup failed, and errno is set */
    UN_LOOKUP_FILE,        /* the name is a file other than a symbolic link; the file was opened */
    UN_LOOKUP_LINK,        /* the name is a symbolic link to follow; its contents were read */
    UN_LOOKUP_MISSING
};

struct un_entry {
    int fd;
    bool is_ours;
    char link[UN_PATH_MAX];
};

/* Looks up `name` in the last directory of the trail, and stores the file or the contents of a
 * symbolic link in `found`. trail->path already includes `name`. */
typedef enum un_lookup un_lookup_function(const struct un_trail *trail, const char *name,
                                          struct un_entry *found, void *arg);

/* Starts a trail at a root directory, whose descriptor `root` the caller continues to own. */
void un_trail_begin(struct un_trail *trail, int root);
/* Closes the descriptors of a trail. Preserves errno. */
void un_trail_close(struct un_trail *trail);
#define un_auto_trail __attribute__((cleanup(un_trail_close)))
/* Resolves an absolute path from the root of the trail. ".." returns to the previous directory of
 * the trail, never above its root, even if another process moves directories meanwhile. Returns 0,
 * or -1 with errno set: ELOOP for too many symbolic links, ENAMETOOLONG for too long a path, or an
 * errno of `lookup`. */
int un_walk(struct un_trail *trail, const char *path, un_lookup_function *lookup, void *arg);

static inline struct un_place *un_trail_last(struct un_trail *trail)
{
    return &trail->place[trail->count - 1];
}

/* Opens an entry of a directory (O_PATH) without following a symbolic link. Returns a descriptor,
 * or -1 with errno set. */
int un_child(int directory, const char *name);
/* Reads the contents of the symbolic link `name` in `directory`. If `name` is empty, reads the link
 * that is open as `directory`. Returns 0, or -1 with errno set. */
int un_read_link(int directory, const char *name, char text[UN_PATH_MAX]);
/* Reads the path of an open file from /proc/self/fd. Returns 0, or -1 with errno set. */
int un_path_of(int fd, char path[UN_PATH_MAX]);

/* ---- follow.c: opening files of the host ----------------------------------------------------- */

/*
 * The functions un_open_...(path, real) open the file at an absolute path (O_PATH, close-on-exec,
 * with a descriptor above 2), and store the file's path without symbolic links in `real`. They
 * return the descriptor, or -1 with errno set.
 */

/* Opens a file, following only symbolic links that root or the caller owns. If another user owns a
 * link, fails with EACCES, and stores the link's owner in *foreign and its path in `real`.
 * Otherwise *foreign becomes -1. */
int un_open_follow(const char *path, char real[UN_PATH_MAX], int64_t *foreign);
/* Opens a file, following all symbolic links. Only for programs of this package, and programs that
 * the caller chooses. */
int un_open_own(const char *path, char real[UN_PATH_MAX]);
/* Opens a file, following no symbolic links. */
int un_open_exact(const char *path, char real[UN_PATH_MAX]);
/* Looks up a name for un_walk(), following all symbolic links. `arg` is unused. */
un_lookup_function un_lookup_any_link;
/* Opens the file of the descriptor `fd` again by its path, in the mount namespace of this process,
 * because the kernel does not bind-mount a descriptor of another mount namespace. Returns a
 * descriptor, or -1 with errno set, which is ESTALE if the path leads to another file. */
int un_open_here(int fd, const char *path);
/* Returns whether a group contains only the caller and root. True for root's group, and for a
 * group without listed members whose gid equals the caller's uid. */
bool un_group_is_private(gid_t gid);

/* ---- kernel_files.c: files that act on the kernel -------------------------------------------- */

/* Fails if a writable bind mount exposes an interface of the kernel. Checks only sources that the
 * launch has opened, because a caller that passes a descriptor has already checked its file.
 * Devices are allowed. */
int un_refuse_kernel_files(struct un_launch *launch, struct un_error *err);

/* ---- view.c: the file system that a sandbox will see ----------------------------------------- */

/* Closes the descriptors of a view and frees its contents, but not the struct itself. */
void un_view_clear(struct un_view *view);
/* Resolves an absolute path inside and its symbolic links, as the kernel of the sandbox will. The
 * trail must be closed, even after a failure. Returns 0, or -1 with errno set. */
int un_view_walk(const struct un_view *view, const char *path, struct un_trail *trail);
/* Returns the path of a trail's last file inside the sandbox. */
const char *un_view_inside(const struct un_trail *trail);
/* Writes the path to which un_view_walk() has resolved its argument to `wanted`. The path includes
 * components that do not exist. Returns 0, or -1 with errno set. */
int un_view_wanted(const struct un_trail *trail, char wanted[UN_PATH_MAX]);
/* Returns whether the last file of a trail is a directory. */
bool un_view_is_directory(struct un_trail *trail);
/* Returns whether a path inside lies in /proc, /sys or /dev, whose contents only gVisor knows. */
bool un_view_is_of_gvisor(const char *inside);
/* Returns the innermost mount that contains the path in the first `length` bytes of `path`, or NULL
 * if no mount contains that path. */
const struct un_cover *un_view_cover_at(const struct un_view *view, const char *path,
                                        size_t length);

/* ---- command.c: looking up the command in the sandbox ---------------------------------------- */

/* Checks the command in `params` as un_view_check_command() does, so that a missing command is
 * reported before runsc is started. usernsctl-verify checks the cases that only the sandbox can
 * decide. */
int un_launch_check_command(struct un_launch *launch, const struct un_launch_params *params,
                            struct un_error *err);

/* ---- accounts.c: the user of the command, by name -------------------------------------------- */

struct un_account_name;
/* Finds a user in the account files of the root filesystem, which must have been built. Reads
 * /etc/passwd or /etc/group only if `name` requires the file. */
int un_launch_find_user(struct un_launch *launch, const struct un_account_name *name,
                        struct un_account *account, struct un_error *err);

/* ---- place.c: creating mount points ---------------------------------------------------------- */

/* Creates the file or directory `inside` as a mount point, with its missing parents, and stores its
 * resolved path in `trail`. Set `for_runsc` if runsc will access the mount point by its path. The
 * trail must be closed, even after a failure. */
int un_place_make(struct un_launch *launch, const char *inside, bool is_directory, bool for_runsc,
                  struct un_trail *trail, struct un_error *err);
/* Sets the error for a mount point that does not exist, and that usernsctl can't create because it
 * lies inside another mount. Returns -1. */
int un_place_fail_missing(struct un_launch *launch, const struct un_trail *trail,
                          struct un_error *err);

/* ---- root.c: building the root filesystem of a sandbox --------------------------------------- */

/* Attributes of mounts for mount_setattr(2), from linux/mount.h. */
#define UN_ATTR_RDONLY 1
#define UN_ATTR_NOSUID 2
#define UN_ATTR_NODEV 4
/* Attributes of all mounts except mounts of devices. Without UN_ATTR_NODEV, a device file in a root
 * filesystem could act on the host, because runsc could open the device as root. */
#define UN_ATTR_HARMLESS (UN_ATTR_NOSUID | UN_ATTR_NODEV)

/*
 * On failure, the functions un_root_...() fill in `err` and return -1. The step is UN_STEP_SANDBOX
 * for a failed call on a file, and UN_STEP_MOUNT for a failed mount.
 */

/* Creates the directories for the root filesystem in scratch, which must be open. */
int un_root_begin(struct un_launch *launch, struct un_error *err);

/* Creates a directory. Returns its O_PATH descriptor, or -1. */
int un_root_make_directory(struct un_launch *launch, int parent, const char *name, mode_t mode,
                           struct un_error *err);
/* Creates a directory or an empty file that every user can read. Returns an O_PATH descriptor, or
 * -1. */
int un_root_make(struct un_launch *launch, int parent, const char *name, bool is_directory,
                 struct un_error *err);
/* Creates a directory or an empty file under a new name in `directory`, the directory root.spare or
 * root.shown. Writes the name to `name`, unless `name` is NULL. Returns an O_PATH descriptor, or
 * -1. */
int un_root_new(struct un_launch *launch, int directory, bool is_directory, char name[16],
                struct un_error *err);
/* Changes the mode of the file open as `fd`. O_PATH suffices for the descriptor. */
int un_root_set_mode(struct un_launch *launch, int fd, mode_t mode, const char *name,
                     struct un_error *err);
/* Calls fstat(2) for the file open as `fd`. `name` is for the error message. */
int un_root_status(struct un_launch *launch, int fd, const char *name, struct stat *status,
                   struct un_error *err);
/* Creates the symbolic link `name` in `directory`, with the contents of the symbolic link open as
 * `link`. */
int un_root_copy_link(struct un_launch *launch, int link, int directory, const char *name,
                      struct un_error *err);

/* Bind-mounts `source` under a new name in `directory`, the directory root.spare or root.shown.
 * Writes the name to `name`, unless `name` is NULL. Returns an O_PATH descriptor of the mounted
 * file, or -1. */
int un_root_show(struct un_launch *launch, int source, int directory, uint64_t attributes,
                 char name[16], struct un_error *err);
/* Covers a file by an empty file, or a directory by an empty directory, so that the sandbox does
 * not see the contents. */
int un_root_hide(struct un_launch *launch, int file, const char *name, struct un_error *err);
/* Bind-mounts each entry of the directory `source` into `target`, except the names in `without`,
 * which is terminated by NULL. */
int un_root_mirror(struct un_launch *launch, int source, int target, const char *const *without,
                   struct un_error *err);

/* The callbacks and the state of a visit of all entries of a directory. */
struct un_visit {
    /* Returns 1 if the visit must open the entry, 0 to skip the entry, or -1 with errno set. */
    int (*wants)(const struct un_visit *visit, int directory, const struct dirent *entry);
    /* Handles an entry, whose O_PATH descriptor is `found`. May visit a directory by a nested
     * un_root_visit(). */
    int (*take)(struct un_visit *visit, struct un_launch *launch, int found,
                const struct stat *status, const char *name, struct un_error *err);
    void *arg;
    int depth; /* number of nested visits so far; must start as 0 */
};

/* Visits all entries of the open directory `directory`, whose name in errors is `name`. Entries
 * that vanish meanwhile are skipped. Fails with ELOOP at a depth of more than 128 nested visits. */
int un_root_visit(struct un_visit *visit, struct un_launch *launch, int directory, const char *name,
                  struct un_error *err);

/* ---- scratch.c: the tmpfs for all files of a sandbox ----------------------------------------- */

/* Mounts the tmpfs for the sandbox's files on the first of the launch's candidate directories that
 * no user but root can replace. */
int un_scratch_mount(struct un_launch *launch, struct un_error *err);
/* Unmounts the tmpfs of the sandbox with all mounts in it. */
void un_scratch_unmount(struct un_launch *launch);

/* ---- snapshot.c: copying publicly readable files --------------------------------------------- */

/* Returns whether a mode lets every user read a file, or list and search a directory. */
static inline bool un_is_public(mode_t mode)
{
    mode_t wanted = S_ISDIR(mode) ? 05 : 04;
    return (mode & wanted) == wanted;
}

/* Copies the contents of the directory `source` into the empty directory `target`, recursively.
 * Files above the size limits are bind-mounted instead. A file or directory that not every user may
 * read becomes an empty one. Modes and symbolic links are preserved; devices, pipes and sockets are
 * skipped. */
int un_snapshot(struct un_launch *launch, int source, int target, struct un_error *err);

/* ---- private.c: hiding files that not every user may read ------------------------------------ */

/* Covers each file and directory below `directory` that not every user may read, by an empty file
 * or directory. Covered directories are not entered, symbolic links are not followed, and entries
 * that vanish meanwhile are skipped. */
int un_hide_private(struct un_launch *launch, int directory, const char *name,
                    struct un_error *err);

/* ---- steps: functions that perform one record each ------------------------------------------- */

typedef int un_step_function(struct un_launch *launch, const struct un_record *record,
                             struct un_error *err);

/* Steps in host_dirs.c, which make directories of the host visible. */
un_step_function un_step_machine, un_step_snapshot, un_step_guarded, un_step_tree,
    un_step_hide_private;
/* Steps in root_dirs.c, which create directories, symbolic links and resolv.conf. */
un_step_function un_step_directory, un_step_link, un_step_resolver;
/* Steps in bind_mounts.c, which prepare mounts at a path inside. */
/* Path of usernsctl-verify inside. Must equal VERIFIER_INSIDE in gvisor/launch/steps.py. */
#define UN_VERIFIER_INSIDE "/.usernsctl-verify"
/* Option of usernsctl-verify to run the payload with other ids. A uid, a gid and the payload follow
 * the option. */
#define UN_VERIFY_AS "--as"
un_step_function un_step_file, un_step_bind, un_step_mount;
/* Steps in files.c, which create files outside the root filesystem. */
un_step_function un_step_make, un_step_tmpfs, un_step_touch, un_step_discard;
un_step_function un_step_debug_log, un_step_program, un_step_program_link;

/* The step in seen_limits.c, which shows limits to the sandbox. */
un_step_function un_step_limits;

/* ---- seen_limits.c: showing limits to the sandbox -------------------------------------------- */

/* Moves this process into a new mount namespace, whose mounts are not visible in other namespaces.
 */
int un_leave_mount_namespace(struct un_error *err);

/* Shows limits to the runsc that this process will start. The limits are those of the control
 * group, or `memory` and `processors`, if these are lower and not 0. Covers /proc/meminfo by a file
 * that is created at `path`, and restricts the processors of this process. `shares_mounts` must be
 * set if other processes share the mount namespace of this process, which then enters a new one.
 * Fails if the memory limit of the control group is lower than gVisor needs. */
int un_show_limits(const char *path, uint64_t memory, uint64_t processors, bool shares_mounts,
                   struct un_error *err);

/* Covers a home directory of the host by an empty directory (sandbox_home.c). */
int un_hide_home(struct un_launch *launch, const char *home, struct un_error *err);

/* ---- config.c: config.json of a launch ------------------------------------------------------- */

/* Builds the text of config.json, with the maps of the user namespace. `maps` may be NULL if no
 * record needs the maps. The text must be freed, even after a failure. */
int un_config_text(struct un_launch *launch, const struct un_launch_params *params,
                   const struct un_idmap *maps, struct un_text *text, struct un_error *err);
/* Fails if the ids of the command are not mapped in the user namespace, and can't be mapped inside
 * the sandbox either. */
int un_config_check_user(struct un_launch *launch, const struct un_launch_params *params,
                         const struct un_idmap *maps, struct un_error *err);
/* Writes config.json to the directory "bundle" in scratch, if the launch has a config.json. */
int un_config_write(struct un_launch *launch, const struct un_launch_params *params,
                    const struct un_idmap *maps, struct un_error *err);
/* Returns the number of ids in a map. */
uint64_t un_map_ids(const struct un_map *map);

/* ---- drop_privileges.c: dropping privileges before runsc is executed ------------------------- */

/* Permanently drops the privileges that runsc does not need, as far as the launch requests it, and
 * verifies that this process no longer has them. `has_several` must be set if the user namespace
 * maps more than one id. */
int un_drop_privileges(struct un_launch *launch, bool has_several, struct un_error *err);

#endif
