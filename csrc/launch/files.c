/* The files beside the root filesystem: the bundle, state and logs of runsc, programs of ours. */
#include "base/base.h"
#include "launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

/* A path in scratch: the directory that is open, and the name in it. */
struct spot {
    int directory;
    char path[UN_PATH_MAX]; /* relative to scratch */
    const char *name;       /* the end of it */
};

static int fail_spot(struct un_launch *launch, struct spot *spot, struct un_error *err)
{
    int failed = un_launch_fail_file(launch, spot->path, err);
    un_close_quietly(spot->directory);
    return failed;
}

/* Goes to the directory of a path one name at a time, by no symbolic link. */
static int find_spot(struct un_launch *launch, const char *word, struct spot *spot,
                     struct un_error *err)
{
    char name[NAME_MAX + 1];
    if (un_marks_expand(&launch->marks, word, NULL) >= sizeof spot->path) {
        errno = ENAMETOOLONG;
        return un_launch_fail_file(launch, word, err);
    }
    un_marks_expand(&launch->marks, word, spot->path);
    spot->directory = fcntl(launch->root.scratch, F_DUPFD_CLOEXEC, 3);
    spot->name = spot->path;
    for (const char *slash; spot->directory >= 0 && (slash = strchr(spot->name, '/'));) {
        snprintf(name, sizeof name, "%.*s", (int)(slash - spot->name), spot->name);
        int next = un_child(spot->directory, name);
        un_close_quietly(spot->directory);
        spot->directory = next;
        spot->name = slash + 1;
    }
    return spot->directory < 0 ? un_launch_fail_file(launch, spot->path, err) : 0;
}

int un_step_make(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    struct spot spot;
    if (find_spot(launch, record->words, &spot, err))
        return -1;
    int made = un_root_make(launch, spot.directory, spot.name, true, err);
    close(spot.directory);
    if (made < 0)
        return -1;
    mode_t mode = un_argument_mode(un_record_word(record, 1));
    int failed = un_root_set_mode(launch, made, mode, spot.path, err);
    close(made);
    return failed;
}

int un_step_tmpfs(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    struct spot spot;
    struct stat status;
    char path[2 * UN_PATH_MAX], options[64];
    if (find_spot(launch, record->words, &spot, err))
        return -1;
    if (fstatat(spot.directory, spot.name, &status, AT_SYMLINK_NOFOLLOW))
        return fail_spot(launch, &spot, err);
    if (!S_ISDIR(status.st_mode)) {
        errno = ENOTDIR;
        return fail_spot(launch, &spot, err);
    }
    close(spot.directory);
    snprintf(path, sizeof path, "%s/%s", launch->marks.scratch, spot.path);
    snprintf(options, sizeof options, "mode=0700,size=%s", un_record_word(record, 1));
    return un_mount("usernsctl", path, "tmpfs", MS_NOSUID | MS_NODEV, options, err);
}

int un_step_touch(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    struct spot spot;
    if (find_spot(launch, record->words, &spot, err))
        return -1;
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int made = openat(spot.directory, spot.name, flags, 0600);
    if (made < 0)
        return fail_spot(launch, &spot, err);
    close(made);
    close(spot.directory);
    return 0;
}

static int make_link(struct un_launch *launch, const char *word, const char *target,
                     struct un_error *err)
{
    struct spot spot;
    if (find_spot(launch, word, &spot, err))
        return -1;
    if (symlinkat(target, spot.directory, spot.name))
        return fail_spot(launch, &spot, err);
    close(spot.directory);
    return 0;
}

/* Has a log that is not wanted thrown away. */
int un_step_discard(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    return make_link(launch, record->words, "/dev/null", err);
}

/* No mount, since runsc looks for files of its own beside its real path. And a link, since
 * processes are known by the name of what was executed. */
int un_step_program_link(struct un_launch *launch, const struct un_record *record,
                         struct un_error *err)
{
    char target[64];
    snprintf(target, sizeof target, "/proc/self/fd/%d", un_record_source(launch, record, 0)->fd);
    return make_link(launch, un_record_word(record, 1), target, err);
}

/* Shows a source in a directory of ours. */
static int show(struct un_launch *launch, const struct un_source *source, int directory,
                const char *name, bool is_directory, uint64_t attributes, struct un_error *err)
{
    int place = un_root_make(launch, directory, name, is_directory, err);
    if (place < 0)
        return -1;
    int failed = un_bind(source->fd, place, attributes, source->path, err);
    close(place);
    return failed;
}

/* Shows the directory for debug logs where nobody can have its path lead elsewhere. */
int un_step_debug_log(struct un_launch *launch, const struct un_record *record,
                      struct un_error *err)
{
    return show(launch, un_record_source(launch, record, 0), launch->root.scratch, "debug-log",
                true, UN_ATTR_HARMLESS, err);
}

int un_step_program(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    const struct un_source *source = un_record_source(launch, record, 0);
    int directory = un_child(launch->root.scratch, "programs");
    if (directory < 0)
        return un_launch_fail_file(launch, "programs", err);
    const char *name = strrchr(source->path, '/') + 1;
    int failed = show(launch, source, directory, name, false, UN_ATTR_RDONLY, err);
    close(directory);
    return failed;
}
