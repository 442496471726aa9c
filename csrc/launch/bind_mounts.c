/* Preparing the bind mounts of a sandbox. This process makes some of the mounts itself. runsc makes
 * the others, and this process prepares their sources and mount points. */
#include "base/base.h"
#include "launch/launch.h"

#include <sys/statvfs.h>

/* Creates an empty file in the sandbox's root filesystem, and bind-mounts a file of the host on
 * it. */
int un_step_file(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    un_auto_trail struct un_trail trail;
    const struct un_source *source = un_record_source(launch, record, 0);
    const char *inside = un_record_argument(record, 1);
    if (un_place_make(launch, inside, false, false, &trail, err))
        return -1;
    int place = un_trail_last(&trail)->fd;
    if (place < 0)
        return un_place_fail_missing(launch, &trail, err);
    return un_bind(source->fd, place, UN_ATTR_HARMLESS | UN_ATTR_RDONLY, inside, err);
}

/* Returns whether `source` is a device file, or lies in /dev. */
static bool has_devices(const struct un_source *source, const struct stat *status)
{
    return S_ISCHR(status->st_mode) || S_ISBLK(status->st_mode) ||
           un_is_below(source->path, "/dev");
}

static uint64_t attributes_of(const struct un_source *source, const struct stat *status,
                              const char *access)
{
    uint64_t attributes = has_devices(source, status) ? UN_ATTR_NOSUID : UN_ATTR_HARMLESS;
    return strcmp(access, "ro") ? attributes : attributes | UN_ATTR_RDONLY;
}

static int fail_kind(struct un_launch *launch, const struct un_source *source, const char *inside,
                     bool is_directory, struct un_error *err)
{
    un_launch_set_remedy(launch, inside, NULL);
    return un_fail(err, UN_STEP_BIND, 0, NULL,
                   "%.200s is %s and can't be mounted on %.200s, which is %s", source->path,
                   is_directory ? "a directory" : "a file", inside,
                   is_directory ? "a file" : "a directory");
}

static const char *name_special(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFCHR:
    case S_IFBLK:
        return "a device";
    default:
        return NULL;
    }
}

/* Fails if the mount point is a special file. runsc opens the mount point, and the open would block
 * for a FIFO that no other process has open, and fail for a socket, or for a device in a user
 * namespace. */
static int refuse_special(struct un_launch *launch, struct un_trail *trail, const char *inside,
                          struct un_error *err)
{
    struct stat status;
    int fd = un_trail_last(trail)->fd;
    const char *kind = fd < 0 || fstat(fd, &status) ? NULL : name_special(status.st_mode);
    if (!kind)
        return 0;
    un_launch_set_remedy(launch, inside, "remove %.200s from the root filesystem", inside);
    return un_fail(err, UN_STEP_BIND, 0, NULL,
                   "%.200s is %s, and gVisor can't mount anything on it", inside, kind);
}

/* Fails if the mount point is the sandbox's root directory, or usernsctl-verify, the program in the
 * sandbox that proves that the sandbox's kernel is gVisor. Through a symbolic link in a hostile
 * root filesystem or bundle, any path may lead there. */
static int refuse_own(struct un_launch *launch, const char *named, const char *inside,
                      struct un_error *err)
{
    if (strcmp(inside, "/") && strcmp(inside, UN_VERIFIER_INSIDE))
        return 0;
    un_launch_set_remedy(launch, named, "choose another destination");
    return un_fail(err, UN_STEP_BIND, 0, NULL,
                   "%.200s leads to %.200s in the sandbox, and nothing may be mounted there", named,
                   inside);
}

/* Adds a bind mount that runsc will make to launch->bind and launch->view. The source of the mount
 * is the entry `name` of the directory launch->root.shown, and is open as `shown`. Takes ownership
 * of the descriptor `shown`. */
static int note_bind(struct un_launch *launch, const struct un_source *source, const char *name,
                     const char *inside, int shown, struct un_error *err)
{
    struct un_bind *bind = &launch->bind[launch->bind_count];
    if (asprintf(&bind->source, "%s/shown/%s", launch->marks.scratch, name) < 0)
        bind->source = NULL;
    bind->destination = strdup(inside);
    launch->bind_count++;
    if (!bind->source || !bind->destination) {
        close(shown);
        errno = ENOMEM;
        return un_launch_fail_file(launch, inside, err);
    }
    if (un_view_add(&launch->view, inside, source->path, shown))
        return un_launch_fail_file(launch, inside, err);
    return 0;
}

static int show_for_runsc(struct un_launch *launch, const struct un_record *record,
                          struct un_trail *trail, struct un_error *err)
{
    const struct un_source *source = un_record_source(launch, record, 0);
    struct stat status;
    char name[16];
    if (un_root_status(launch, source->fd, source->path, &status, err))
        return -1;
    uint64_t attributes = attributes_of(source, &status, un_record_argument(record, 2));
    int shown = un_root_show(launch, source->fd, launch->root.shown, attributes, name, err);
    if (shown < 0)
        return -1;
    return note_bind(launch, source, name, un_view_inside(trail), shown, err);
}

/* Creates the mount point of a bind mount that runsc will make, and bind-mounts the source in the
 * scratch directory, where runsc can access the source. */
int un_step_bind(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    struct stat status;
    const struct un_source *source = un_record_source(launch, record, 0);
    const char *inside = un_record_argument(record, 1);
    if (un_root_status(launch, source->fd, source->path, &status, err))
        return -1;
    bool is_directory = S_ISDIR(status.st_mode);
    un_auto_trail struct un_trail trail;
    if (un_place_make(launch, inside, is_directory, true, &trail, err))
        return -1;
    if (refuse_own(launch, inside, un_view_inside(&trail), err))
        return -1;
    if (un_view_is_directory(&trail) != is_directory)
        return fail_kind(launch, source, inside, is_directory, err);
    if (refuse_special(launch, &trail, inside, err))
        return -1;
    return show_for_runsc(launch, record, &trail, err);
}

static bool is_writable(int fd)
{
    struct statvfs status;
    return fstatvfs(fd, &status) || !(status.f_flag & ST_RDONLY);
}

static int cover_by_empty(struct un_launch *launch, const char *wanted, struct un_error *err)
{
    int empty = un_root_new(launch, launch->root.spare, true, NULL, err);
    if (empty < 0)
        return -1;
    return un_view_add(&launch->view, wanted, "", empty) ? un_launch_fail_file(launch, wanted, err)
                                                         : 0;
}

/* Checks the mount point of a filesystem that gVisor itself mounts, such as a tmpfs. If the
 * filesystem is empty, adds it to launch->view, so that paths below the mount point no longer
 * resolve to files of an earlier bind mount. */
int un_step_mount(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    char wanted[UN_PATH_MAX];
    un_auto_trail struct un_trail trail;
    if (un_view_walk(&launch->view, record->arguments, &trail))
        return un_launch_fail_file(launch, record->arguments, err);
    if (un_view_wanted(&trail, wanted))
        return un_launch_fail_file(launch, un_view_inside(&trail), err);
    if (refuse_own(launch, record->arguments, wanted, err))
        return -1;
    const struct un_cover *cover = un_view_cover_at(&launch->view, trail.path, strlen(trail.path));
    /* A missing mount point is an error only in a writable bind mount, because gVisor itself
     * creates the mount point in read-only filesystems and in gVisor's own filesystems. */
    bool is_bind = cover && *cover->source;
    if (*trail.missing && is_bind && is_writable(cover->fd))
        return un_place_fail_missing(launch, &trail, err);
    return strcmp(un_record_argument(record, 1), "empty") ? 0 : cover_by_empty(launch, wanted, err);
}
