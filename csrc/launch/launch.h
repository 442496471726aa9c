/* Functions that perform a launch, a list of steps from a request to the execve(2) of runsc.
 * Internal to usernsctl. */
#ifndef USERNSCTL_LAUNCH_H
#define USERNSCTL_LAUNCH_H

#include "launch/verbs.h"

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

/* ---- launch.c: the state of a launch --------------------------------------------------------- */

/* Option that makes usernsctl-watch kill itself with the signal that killed the command. The
 * options of usernsctl-watch precede its other arguments. */
#define UN_RERAISE_SIGNAL "--reraise-signal"
/* Option that makes usernsctl-watch print its messages as JSON. */
#define UN_LOG_JSON "--log=json"
/* Option of usernsctl-watch that sets the limits of the sandbox (programs/shared/limits.c). */
#define UN_LIMITS "--limits="
/* Option of usernsctl-watch that names the file for the command's result
 * (programs/watch/result.c). */
#define UN_RESULT "--result="
#define UN_DENIED "--denied="
/* Option of usernsctl-watch that limits the size of the command's output
 * (programs/watch/pump.c). */
#define UN_MAX_OUTPUT "--max-output="
/* Option of usernsctl-watch for a command that uses a terminal. runsc then forwards the terminal's
 * signals, such as SIGINT for Ctrl-C, itself. */
#define UN_TERMINAL "--terminal"
/* Option of usernsctl-watch that sets the timeout in seconds for starting the sandbox. */
#define UN_START_TIMEOUT "--start-timeout="

struct un_record {
    enum un_verb verb;
    const char *arguments; /* the record's arguments, each terminated by NUL */
};

/* A file of the host that a `source` record of the launch names. */
struct un_source {
    int fd;       /* descriptor of the file, or -1 before the file is opened */
    bool is_ours; /* whether un_launch_close() closes `fd` */
    char *path;   /* path of the file, without symbolic links */
};

/* A bind mount that runsc will make. */
struct un_bind {
    /* path of the mounted file in the directory root.shown, which no other user can access */
    char *source;
    char *destination; /* path in the sandbox, without symbolic links */
};

/* A mount that runsc will make in the sandbox. */
struct un_cover {
    char *inside; /* path of the mount point, without symbolic links */
    /* path of the bind-mounted file on the host; "" if the mount is not a bind mount */
    char *source;
    int fd; /* O_PATH descriptor of the mounted file */
};

struct un_view {
    int top; /* O_PATH descriptor of the root filesystem, or -1 before it exists */
    /* the mounts that runsc will make, in the order in which un_view_add() added them */
    struct un_cover *cover;
    size_t cover_count;
    /* uid_map and gid_map of the sandbox (un_view_set_owners()), or NULL */
    struct un_idmap *owners;
};

/* The directories in which the root filesystem of a sandbox is built, as O_PATH descriptors; each
 * is -1 before its directory exists. */
struct un_root {
    int scratch; /* root directory of the tmpfs that holds all files of one sandbox */
    int spare;   /* subdirectory of `scratch` for files that are bind-mounted into the root
                  * filesystem */
    int shown;   /* subdirectory of `scratch` for the sources of runsc's bind mounts */
    dev_t device;
    /* number of entries created in `spare` and `shown`; the Nth entry is named N */
    unsigned count;
};

struct un_file_id {
    dev_t device;
    ino_t inode;
};

/* A set of files, identified by device and inode. */
struct un_file_ids {
    struct un_file_id *id;
    size_t count;
};

struct un_launch {
    const char *version; /* version of usernsctl that composed the launch */
    struct un_record *record;
    size_t record_count;
    size_t of_verb[UN_VERB_COUNT]; /* number of records of each verb, indexed by enum un_verb */
    /* the files that the `source` records name; of_verb[UN_VERB_SOURCE] elements */
    struct un_source *source;
    /* the bind mounts of runsc, with room for of_verb[UN_VERB_BIND] elements */
    struct un_bind *bind;
    size_t bind_count; /* number of elements of `bind` that are set */
    bool is_root;      /* whether the process that opened the files in `source` was root */
    /* directories of the host that only root and the caller can change (closed_dirs.c) */
    struct un_file_ids closed_dirs;
    /* the copies that place.c has mounted on directories, because another user can change these
     * directories */
    struct un_file_ids copied_dirs;
    struct un_root root;
    struct un_view view; /* the directory tree that the sandbox will have: the root filesystem with
                            the mounts that runsc will add */
    struct un_marks marks;
    /* remedy of the last failure, or "" if the general remedy of its cause applies */
    char remedy[UN_PATH_MAX];
    char filename[UN_PATH_MAX];
};

/* Returns the argument with the index `number` of a record; the first index is 0. */
const char *un_record_argument(const struct un_record *record, size_t number);
/* Returns the element of launch->source whose index is the argument `number` of a record. */
struct un_source *un_record_source(const struct un_launch *launch, const struct un_record *record,
                                   size_t number);
/* Returns the next record with the verb `verb` after `record`, or the first such record if `record`
 * is NULL. Returns NULL if no such record follows. */
const struct un_record *un_launch_next(const struct un_launch *launch, enum un_verb verb,
                                       const struct un_record *record);
#define UN_EACH_RECORD(record, launch, verb)                                                       \
    for (const struct un_record *record = NULL; (record = un_launch_next(launch, verb, record));)
static inline const struct un_record *un_launch_first(const struct un_launch *launch,
                                                      enum un_verb verb)
{
    return un_launch_next(launch, verb, NULL);
}

/* Fills in `err` from errno, for a failed system call on the file `path`. Returns -1. */
int un_launch_fail_file(struct un_launch *launch, const char *path, struct un_error *err);
/* Sets the remedy, formatted as by printf(3), and the file of the failure that the caller is about
 * to report. `filename` and `remedy` may be NULL. */
void un_launch_set_remedy(struct un_launch *launch, const char *filename, const char *remedy, ...)
    __attribute__((format(printf, 3, 4)));
/* Fails if a mount covers runsc or another program of the launch, so that its path no longer names
 * the file that the launch opened. */
int un_check_programs(struct un_launch *launch, struct un_error *err);

/* ---- json.c: building the text of config.json ------------------------------------------------ */

/* A string buffer that grows as text is added. */
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
/* Terminates the string in `text` by NUL. Returns that string, or NULL if an allocation failed. */
const char *un_text_end(struct un_text *text);
void un_text_free(struct un_text *text);

/* ---- walk.c: resolving a path component by component ----------------------------------------- */

/* Maximum number of components in a struct un_trail at a time. A descriptor of each component stays
 * open until ".." or an absolute symbolic link removes the component, or until un_trail_close(). */
#define UN_TRAIL_MAX 256
/* Maximum number of symbolic links in a path, as in the kernel (path_resolution(7)). */
#define UN_LINKS_MAX 40

/* A component of the path in a struct un_trail, that is, the root directory, another directory, or
 * the last file. */
struct un_place {
    int fd; /* O_PATH descriptor of the component, or -1 for a directory that only gVisor will
               create */
    bool is_ours;
    size_t length; /* length of the path of this component, which is a prefix of trail->path */
};

/* The state of a path resolution: the components from the root directory to the file that was
 * reached last. */
struct un_trail {
    /* path of the file that was reached last, without symbolic links; "" for the root directory */
    char path[UN_PATH_MAX];
    /* the components of `path`, starting with the root directory */
    struct un_place place[UN_TRAIL_MAX];
    size_t count;
    /* the rest of the path, which does not exist; "" if the whole path exists */
    char missing[UN_PATH_MAX];
    /* whether un_walk() failed with ENAMETOOLONG because of the size of this structure, not because
     * of a limit of the kernel */
    bool is_limited;
};

/* Results of looking up a name in a directory. */
enum un_lookup {
    UN_LOOKUP_FAILED = -1, /* the lookup failed, with errno set */
    UN_LOOKUP_FILE,        /* the name is not a symbolic link; its file was opened */
    UN_LOOKUP_LINK,        /* the name is a symbolic link to follow; its contents were read */
    UN_LOOKUP_MISSING
};

struct un_entry {
    int fd;
    bool is_ours;
    char link[UN_PATH_MAX];
};

/* Looks up `name` in the last directory of `trail`. Stores a descriptor of the file, or the
 * contents of the symbolic link, in `found`. trail->path already ends with `name`. */
typedef enum un_lookup un_lookup_function(const struct un_trail *trail, const char *name,
                                          struct un_entry *found, void *arg);

/* Begins a path resolution at the directory `root`, which ".." never leaves. The caller keeps
 * ownership of that descriptor. */
void un_trail_begin(struct un_trail *trail, int root);
/* Closes the descriptors in `trail`. Preserves errno. */
void un_trail_close(struct un_trail *trail);
#define un_auto_trail __attribute__((cleanup(un_trail_close)))
/* Resolves an absolute path from the root directory of `trail`. ".." returns to the previous
 * directory of `trail`, and never above the root directory, even if another process moves
 * directories during the resolution. Returns 0, or -1 with errno set: ELOOP if there are too many
 * symbolic links, ENAMETOOLONG if the path is too long, or the errno that `lookup` has set. */
int un_walk(struct un_trail *trail, const char *path, un_lookup_function *lookup, void *arg);

static inline struct un_place *un_trail_last(struct un_trail *trail)
{
    return &trail->place[trail->count - 1];
}

/* Opens the entry `name` of a directory with O_PATH and O_NOFOLLOW. Returns a descriptor, or -1
 * with errno set. */
int un_child(int directory, const char *name);
/* Reads the contents of the symbolic link `name` in `directory`. If `name` is empty, `directory`
 * must be an O_PATH descriptor of the link itself. Returns 0, or -1 with errno set. */
int un_read_link(int directory, const char *name, char text[UN_PATH_MAX]);
/* Reads the path of an open file from /proc/self/fd. Returns 0, or -1 with errno set. */
int un_path_of(int fd, char path[UN_PATH_MAX]);

/* ---- follow.c: opening files of the host ----------------------------------------------------- */

/* The functions un_open_...(path, real) open an absolute path with O_PATH and O_CLOEXEC, as a
 * descriptor above 2, and store the path of the opened file without symbolic links in `real`. Each
 * returns the descriptor, or -1 with errno set. */

/* Opens a file, and sets *foreign to -1. Follows symbolic links only if un_owner_is_trusted()
 * accepts their owner. For any other symbolic link, fails with EACCES, and stores the owner of the
 * link in *foreign and the path of the link in `real`. */
int un_open_follow(const char *path, char real[UN_PATH_MAX], int64_t *foreign);
/* Opens a file, following all symbolic links. Only for programs of this package, and for programs
 * that the caller of usernsctl chooses. */
int un_open_own(const char *path, char real[UN_PATH_MAX]);
/* Opens a file. Fails with ELOOP if any component of the path is a symbolic link. */
int un_open_exact(const char *path, char real[UN_PATH_MAX]);
/* Lookup function for un_walk() that follows all symbolic links. `arg` is unused. */
un_lookup_function un_lookup_any_link;
/* Opens the file that is open as `fd` a second time, by its path in this process's mount namespace,
 * because the kernel does not bind-mount a file by a descriptor from another mount namespace.
 * Returns a descriptor, or -1 with errno set: ESTALE if the path names another file. */
int un_open_here(int fd, const char *path);
/* Returns whether the caller and root seem to be the only users in a group. Returns true for root's
 * group, and for the caller's group if its gid equals the caller's uid and /etc/group lists no
 * members of the group. */
bool un_group_is_private(gid_t gid);

/* ---- closed_dirs.c: directories that no other user can change -------------------------------- */

/* Returns whether a set contains the file with the given status. */
bool un_file_ids_contain(const struct un_file_ids *ids, const struct stat *status);
/* Adds the file with the given status to a set. Returns 0, or -1 with errno set. */
int un_file_ids_add(struct un_file_ids *ids, const struct stat *status);
/* Returns whether the sandbox sees directories of the host. The files in launch->source must be
 * open. */
bool un_shows_host(const struct un_launch *launch);
/* Finds the directories of the host, on the paths of the launch's mount points, that only root and
 * the caller can change. Adds these directories to launch->closed_dirs. Must be called before this
 * process enters the user namespace. */
int un_find_closed_dirs(struct un_launch *launch, struct un_error *err);

/* ---- kernel_files.c: rejecting bind mounts that expose interfaces of the kernel -------------- */

/* Fails if the source of a writable bind mount lies on a kernel filesystem, such as proc or sysfs,
 * or contains a kernel filesystem. Allows files in /dev. Checks only sources that this process
 * opened by their paths, because a caller that passes a descriptor has already checked the file. */
int un_refuse_kernel_files(struct un_launch *launch, struct un_error *err);

/* ---- view.c: resolving paths in the filesystem that a sandbox will see ----------------------- */

/* Closes the descriptors of *view, and frees the memory to which *view points, but not `view`
 * itself. */
void un_view_clear(struct un_view *view);
/* Resolves an absolute path and its symbolic links as the sandbox's kernel will. The caller must
 * close `trail`, even after a failure. Returns 0, or -1 with errno set. */
int un_view_walk(const struct un_view *view, const char *path, struct un_trail *trail);
/* Lookup function of un_view_walk(). `arg` points to the struct un_view. */
un_lookup_function un_lookup_inside;
/* Returns the path in the sandbox of the last file of `trail`, "/" for the root directory. */
const char *un_view_inside(const struct un_trail *trail);
/* Stores in `wanted` the path to which un_view_walk() has resolved its argument, including the
 * components that do not exist. Returns 0, or -1 with errno set. */
int un_view_wanted(const struct un_trail *trail, char wanted[UN_PATH_MAX]);
/* Returns whether the last file of `trail` is a directory. */
bool un_view_is_directory(struct un_trail *trail);
/* Returns whether a path in the sandbox lies in /proc, /sys or /dev, which gVisor itself
 * provides. */
bool un_view_is_of_gvisor(const char *inside);
/* Returns the innermost of the mounts that runsc will make that contains the path in the first
 * `length` bytes of `path`, or NULL if none of them contains that path. */
const struct un_cover *un_view_cover_at(const struct un_view *view, const char *path,
                                        size_t length);

/* ---- command.c: looking up the command in the sandbox ---------------------------------------- */

/* Checks the command in `params` by un_view_check_command(), so that a missing command is reported
 * before runsc is started. usernsctl-verify later checks in the sandbox what can't be decided
 * here. */
int un_launch_check_command(struct un_launch *launch, const struct un_launch_params *params,
                            struct un_error *err);

/* ---- accounts.c: looking up the command's user ----------------------------------------------- */

struct un_account_name;
/* Looks up a user in the /etc/passwd and /etc/group of the root filesystem. Must be called after
 * the root filesystem was built. Reads each of these files only if `name` requires it. */
int un_launch_find_user(struct un_launch *launch, const struct un_account_name *name,
                        struct un_account *account, struct un_error *err);

/* ---- place.c: creating mount points ---------------------------------------------------------- */

/* Creates the file or directory `inside`, with its missing parents, as a mount point in the
 * sandbox, and stores its resolved path in `trail`. `for_runsc` must be set if runsc will access
 * the mount point by its path. The caller must close `trail`, even after a failure. */
int un_place_make(struct un_launch *launch, const char *inside, bool is_directory, bool for_runsc,
                  struct un_trail *trail, struct un_error *err);
/* Fills in `err` for a mount point that does not exist, and that usernsctl can't create, because
 * another mount covers its parent directory. Returns -1. */
int un_place_fail_missing(struct un_launch *launch, const struct un_trail *trail,
                          struct un_error *err);

/* ---- root.c: building the root filesystem of a sandbox --------------------------------------- */

/* The attributes MOUNT_ATTR_... of mount_setattr(2), as in linux/mount.h. */
#define UN_ATTR_RDONLY 1
#define UN_ATTR_NOSUID 2
#define UN_ATTR_NODEV 4
/* Attributes of all bind mounts except those of devices. Without UN_ATTR_NODEV, a device file in a
 * root filesystem would give access to a device of the host, because runsc could open it as
 * root. */
#define UN_ATTR_HARMLESS (UN_ATTR_NOSUID | UN_ATTR_NODEV)

/* On failure, the functions un_root_...() fill in `err` and return -1. err->step is
 * UN_STEP_SANDBOX for a failed call on a file, and UN_STEP_MOUNT for a failed mount. */

/* Creates three directories in root.scratch, which must be open: root.spare, root.shown, and the
 * root directory of the root filesystem, launch->view.top. */
int un_root_begin(struct un_launch *launch, struct un_error *err);

/* Creates a directory. Returns an O_PATH descriptor of the directory, or -1. */
int un_root_make_directory(struct un_launch *launch, int parent, const char *name, mode_t mode,
                           struct un_error *err);
/* Creates a directory or an empty file, readable by every user. Returns an O_PATH descriptor, or
 * -1. */
int un_root_make(struct un_launch *launch, int parent, const char *name, bool is_directory,
                 struct un_error *err);
/* Creates a directory or an empty file under a new name in `directory`, which is root.spare or
 * root.shown. Stores the name in `name`, unless `name` is NULL. Returns an O_PATH descriptor, or
 * -1. */
int un_root_new(struct un_launch *launch, int directory, bool is_directory, char name[16],
                struct un_error *err);
/* Changes the mode of the file that is open as `fd`, which may be an O_PATH descriptor. `name` is
 * for the error message. */
int un_root_set_mode(struct un_launch *launch, int fd, mode_t mode, const char *name,
                     struct un_error *err);
/* Calls fstat(2) on the file that is open as `fd`. `name` is for the error message. */
int un_root_status(struct un_launch *launch, int fd, const char *name, struct stat *status,
                   struct un_error *err);
/* Creates the symbolic link `name` in `directory`, with the contents of the symbolic link whose
 * O_PATH descriptor is `link`. */
int un_root_copy_link(struct un_launch *launch, int link, int directory, const char *name,
                      struct un_error *err);

/* Bind-mounts `source` under a new name in `directory`, which is root.spare or root.shown. Stores
 * the name in `name`, unless `name` is NULL. Returns an O_PATH descriptor of the mounted file, or
 * -1. */
int un_root_show(struct un_launch *launch, int source, int directory, uint64_t attributes,
                 char name[16], struct un_error *err);
/* Bind-mounts an empty file or directory on `file`, so that the sandbox does not see its
 * contents. */
int un_root_hide(struct un_launch *launch, int file, const char *name, struct un_error *err);
/* Bind-mounts each entry of the directory `source` into `target`, except those named in `without`,
 * an array terminated by NULL. Symbolic links are copied. */
int un_root_mirror(struct un_launch *launch, int source, int target, const char *const *without,
                   struct un_error *err);

/* The callbacks and the state of un_root_visit(). */
struct un_visit {
    /* Returns 1 to visit the entry, 0 to skip it, or -1 with errno set on failure. */
    int (*wants)(const struct un_visit *visit, int directory, const struct dirent *entry);
    /* Handles a visited entry, whose O_PATH descriptor is `found`. May call un_root_visit() for a
     * directory. */
    int (*take)(struct un_visit *visit, struct un_launch *launch, int found,
                const struct stat *status, const char *name, struct un_error *err);
    void *arg;
    int depth; /* number of nested calls of un_root_visit(); initially 0 */
};

/* Calls the callbacks for all entries of the open directory `directory`. Skips entries that were
 * removed after they were listed. Fails with ELOOP if more than 128 calls are nested. `name` is for
 * the error message. */
int un_root_visit(struct un_visit *visit, struct un_launch *launch, int directory, const char *name,
                  struct un_error *err);

/* ---- scratch.c: the tmpfs for the files of a sandbox ----------------------------------------- */

/* Mounts the tmpfs for the sandbox's files. The mount point is the first directory in the launch's
 * "scratch" records that exists and has no symbolic link in its path. */
int un_scratch_mount(struct un_launch *launch, struct un_error *err);
/* Unmounts the tmpfs of the sandbox, and all mounts in it. */
void un_scratch_unmount(struct un_launch *launch);

/* ---- snapshot.c: copying publicly readable files --------------------------------------------- */

/* Returns whether a mode lets every user read a file, or list and search a directory. */
static inline bool un_is_public(mode_t mode)
{
    mode_t wanted = S_ISDIR(mode) ? 05 : 04;
    return (mode & wanted) == wanted;
}

/* Copies the contents of the directory `source` recursively into the empty directory `target`.
 * Preserves modes and symbolic links. Replaces a file or directory that not every user may read by
 * an empty one, bind-mounts files above the size limits instead of copying them, and skips devices,
 * FIFOs and sockets. */
int un_snapshot(struct un_launch *launch, int source, int target, struct un_error *err);

/* ---- private.c: hiding files that not every user may read ------------------------------------ */

/* Bind-mounts an empty file or directory on each file and directory below `directory` that not
 * every user may read. Does not enter such directories, does not follow symbolic links, and skips
 * entries that were removed after they were listed. */
int un_hide_private(struct un_launch *launch, int directory, const char *name,
                    struct un_error *err);

/* ---- steps: functions that perform a record, one function for each verb ---------------------- */

typedef int un_step_function(struct un_launch *launch, const struct un_record *record,
                             struct un_error *err);

/* Steps that make directories of the host visible (host_dirs.c). */
un_step_function un_step_machine, un_step_snapshot, un_step_guarded, un_step_tree,
    un_step_hide_private;
/* Steps that create directories, symbolic links and resolv.conf in the root filesystem
 * (root_dirs.c). */
un_step_function un_step_directory, un_step_link, un_step_resolver;
/* Path of usernsctl-verify in the sandbox. Must equal VERIFIER_INSIDE in gvisor/launch/steps.py. */
#define UN_VERIFIER_INSIDE "/.usernsctl-verify"
/* Option of usernsctl-verify to run the payload as another user. The uid, the gid and the payload
 * follow. */
#define UN_VERIFY_AS "--as"
/* Option that makes usernsctl-verify, and therefore also the payload (execve(2)), ignore signals.
 * The value is a decimal mask: bit N - 1 stands for signal N. */
#define UN_VERIFY_IGNORE "--ignore="
un_step_function un_step_file, un_step_bind, un_step_mount;
/* Steps that create files of a sandbox outside its root filesystem (files.c). */
un_step_function un_step_make, un_step_tmpfs, un_step_touch, un_step_discard;
un_step_function un_step_debug_log, un_step_program, un_step_program_link;

/* The step that makes the memory and CPU limits visible in the sandbox (seen_limits.c). */
un_step_function un_step_limits;

/* ---- seen_limits.c: showing limits to the sandbox -------------------------------------------- */

/* Moves this process into a new mount namespace, whose mounts do not propagate to other
 * namespaces. */
int un_leave_mount_namespace(struct un_error *err);

/*
 * Makes a memory limit and a CPU limit visible to runsc. Each is the limit of this process's
 * control group, or `memory` or `processors` if that is lower and not 0.
 *
 * Bind-mounts a new file, created at `path`, on /proc/meminfo, and restricts the CPU affinity of
 * this process, which must later execute runsc. `shares_mounts` must be set if other processes
 * share the mount namespace of this process; then this process enters a new mount namespace. Fails
 * if the control group allows less memory than gVisor needs.
 */
int un_show_limits(const char *path, uint64_t memory, uint64_t processors, bool shares_mounts,
                   struct un_error *err);

/* Bind-mounts an empty directory on a home directory of the host, so that the sandbox does not see
 * the files in it. */
int un_hide_home(struct un_launch *launch, const char *home, struct un_error *err);

/* ---- config.c: writing the config.json of a launch ------------------------------------------- */

/* Builds the contents of config.json in `text`. `maps` are the uid map and the gid map of this
 * process's user namespace, or NULL if no record needs them. The caller must free `text`, even
 * after a failure. */
int un_config_text(struct un_launch *launch, const struct un_launch_params *params,
                   const struct un_idmap *maps, struct un_text *text, struct un_error *err);
/* Fails if this process's user namespace does not map the command's uid and gid, and
 * usernsctl-verify can't map them in a nested user namespace of the sandbox either. */
int un_config_check_user(struct un_launch *launch, const struct un_launch_params *params,
                         const struct un_idmap *maps, struct un_error *err);
/* Writes config.json to the directory "bundle" in the scratch directory, if the launch contains
 * records for config.json. */
int un_config_write(struct un_launch *launch, const struct un_launch_params *params,
                    const struct un_idmap *maps, struct un_error *err);
/* Returns the number of ids that a map contains. */
uint64_t un_map_ids(const struct un_map *map);

/* ---- drop_privileges.c: dropping privileges before runsc is executed ------------------------- */

/* Permanently drops the privileges that the launch's records name and that runsc does not need, and
 * verifies that these privileges are gone. Installs the membarrier filter if a record requests it.
 * `has_several` must be set if the user namespace maps more than one id. */
int un_drop_privileges(struct un_launch *launch, bool has_several, struct un_error *err);

#endif
