/* Steps that create files outside the root filesystem of the sandbox (runsc's bundle, state and
 * logs), and that bind-mount this package's programs. */
#include "base/base.h"
#include "launch/launch.h"

#include <sys/mount.h>

/* A path in the scratch directory, split into its parent directory, which is open, and its last
 * component. */
struct scratch_entry {
    int directory;
    char path[UN_PATH_MAX]; /* path of the entry, relative to the scratch directory */
    const char *name;       /* last component of `path` */
};

static void close_entry(const struct scratch_entry *entry)
{
    un_close_quietly(entry->directory);
}

#define auto_close_entry __attribute__((cleanup(close_entry)))

/* Opens the parent directory of a path in the scratch directory. Opens one component after the
 * other, and follows no symbolic link. */
static int open_entry(struct un_launch *launch, const char *word, struct scratch_entry *entry,
                      struct un_error *err)
{
    char name[NAME_MAX + 1];
    if (un_marks_expand(&launch->marks, word, NULL) >= sizeof entry->path) {
        errno = ENAMETOOLONG;
        return un_launch_fail_file(launch, word, err);
    }
    un_marks_expand(&launch->marks, word, entry->path);
    entry->directory = fcntl(launch->root.scratch, F_DUPFD_CLOEXEC, 3);
    entry->name = entry->path;
    for (const char *slash; entry->directory >= 0 && (slash = strchr(entry->name, '/'));) {
        snprintf(name, sizeof name, "%.*s", (int)(slash - entry->name), entry->name);
        int next = un_child(entry->directory, name);
        un_close_quietly(entry->directory);
        entry->directory = next;
        entry->name = slash + 1;
    }
    return entry->directory < 0 ? un_launch_fail_file(launch, entry->path, err) : 0;
}

int un_step_make(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    auto_close_entry struct scratch_entry entry = {.directory = -1};
    if (open_entry(launch, record->arguments, &entry, err))
        return -1;
    un_auto_close int created = un_root_make(launch, entry.directory, entry.name, true, err);
    if (created < 0)
        return -1;
    mode_t mode = un_argument_mode(un_record_argument(record, 1));
    return un_root_set_mode(launch, created, mode, entry.path, err);
}

int un_step_tmpfs(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    auto_close_entry struct scratch_entry entry = {.directory = -1};
    struct stat status;
    char path[2 * UN_PATH_MAX], options[64];
    if (open_entry(launch, record->arguments, &entry, err))
        return -1;
    if (fstatat(entry.directory, entry.name, &status, AT_SYMLINK_NOFOLLOW))
        return un_launch_fail_file(launch, entry.path, err);
    if (!S_ISDIR(status.st_mode)) {
        errno = ENOTDIR;
        return un_launch_fail_file(launch, entry.path, err);
    }
    snprintf(path, sizeof path, "%s/%s", launch->marks.scratch, entry.path);
    snprintf(options, sizeof options, "mode=0700,size=%s", un_record_argument(record, 1));
    return un_mount("usernsctl", path, "tmpfs", MS_NOSUID | MS_NODEV, options, err);
}

int un_step_touch(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    auto_close_entry struct scratch_entry entry = {.directory = -1};
    if (open_entry(launch, record->arguments, &entry, err))
        return -1;
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    un_auto_close int created = openat(entry.directory, entry.name, flags, 0600);
    if (created >= 0)
        return 0;
    /* Report a debug log by its path in the caller's directory. */
    const struct un_record *log = un_launch_first(launch, UN_VERB_DEBUG_LOG);
    if (!log || !un_begins(entry.path, "debug-log/"))
        return un_launch_fail_file(launch, entry.path, err);
    char path[2 * UN_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", un_record_source(launch, log, 0)->path, entry.name);
    return un_launch_fail_file(launch, path, err);
}

static int make_link(struct un_launch *launch, const char *word, const char *target,
                     struct un_error *err)
{
    auto_close_entry struct scratch_entry entry = {.directory = -1};
    if (open_entry(launch, word, &entry, err))
        return -1;
    /* The target can't be NULL, because the parser has counted the record's arguments.
     * NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker) */
    return symlinkat(target, entry.directory, entry.name)
               ? un_launch_fail_file(launch, entry.path, err)
               : 0;
}

/* Creates a symbolic link to /dev/null in place of a log file that runsc writes but no program
 * reads. */
int un_step_discard(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    return make_link(launch, record->arguments, "/dev/null", err);
}

/* Creates a symbolic link in the scratch directory to /proc/self/fd/N, where N is the descriptor of
 * a program. A bind mount would change the real path of runsc, which looks for other files next to
 * that path. A link also preserves the process name, which the kernel takes from the executed
 * path. */
int un_step_program_link(struct un_launch *launch, const struct un_record *record,
                         struct un_error *err)
{
    char target[UN_FD_PATH_MAX];
    un_fd_path(un_record_source(launch, record, 0)->fd, target);
    return make_link(launch, un_record_argument(record, 1), target, err);
}

/* Bind-mounts the file of `source` on a new entry of a directory in the scratch directory. */
static int show(struct un_launch *launch, const struct un_source *source, int directory,
                const char *name, bool is_directory, uint64_t attributes, struct un_error *err)
{
    un_auto_close int place = un_root_make(launch, directory, name, is_directory, err);
    if (place < 0)
        return -1;
    return un_bind(source->fd, place, attributes, source->path, err);
}

/* Bind-mounts the directory for debug logs into the scratch directory, where no other user can
 * redirect its path by a symbolic link. */
int un_step_debug_log(struct un_launch *launch, const struct un_record *record,
                      struct un_error *err)
{
    return show(launch, un_record_source(launch, record, 0), launch->root.scratch, "debug-log",
                true, UN_ATTR_HARMLESS, err);
}

int un_step_program(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    const struct un_source *source = un_record_source(launch, record, 0);
    un_auto_close int directory = un_child(launch->root.scratch, "programs");
    if (directory < 0)
        return un_launch_fail_file(launch, "programs", err);
    const char *name = strrchr(source->path, '/') + 1;
    return show(launch, source, directory, name, false, UN_ATTR_RDONLY, err);
}
