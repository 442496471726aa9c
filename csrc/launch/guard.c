/*
 * What never may be shown: the state directory, which tells us what to end and what to join. A
 * program inside that could write there would have others' processes ended, and one that could read
 * there would see what others' sandboxes were given. Nor may a program inside write to the launch
 * that decides what it sees the next time.
 *
 * It is told by what it is, not by its name: by a link or another mount, it is the same directory.
 */
#include "base/error.h"
#include "launch/launch.h"
#include "launch/mounts.h"
#include "launch/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where something is: `path` as this process sees it, and `inner` in a file system. */
struct place {
    const char *device;
    char inner[2 * UN_PATH_MAX];
    char path[UN_PATH_MAX];
};

/* What is kept from sandboxes. */
struct kept {
    int fd;        /* it, or the closest directory above it that there is ... */
    bool is_there; /* ... and whether that is it */
    struct place place;
    struct un_mounts mounts;
};

/* A path is that of the mount's root, and of what is below the mount point. */
static void join(const struct un_mounted *mount, struct place *place)
{
    size_t point = strcmp(mount->point, "/") ? strlen(mount->point) : 0;
    const char *root = strcmp(mount->root, "/") ? mount->root : "";
    const char *rest = un_is_below(place->path, mount->point) ? place->path + point : place->path;
    snprintf(place->inner, sizeof place->inner, "%s%s", root, strcmp(rest, "/") ? rest : "");
    if (!*place->inner)
        strcpy(place->inner, "/");
}

static int find_place(const struct un_mounts *mounts, int fd, struct place *place)
{
    const struct un_mounted *mount;
    if (un_path_of(fd, place->path) || un_mounts_find(mounts, fd, &mount))
        return -1;
    place->device = mount ? mount->device : "";
    if (mount)
        join(mount, place);
    else /* of another mount namespace */
        strcpy(place->inner, place->path);
    return 0;
}

/* Whether what is mounted from here has the place in it. */
static bool holds(const char *device, const char *inner, const struct place *place)
{
    return !strcmp(device, place->device) && un_is_below(place->inner, inner);
}

/* The same, with what is mounted below it. */
static bool shows(const struct place *shown, const struct kept *kept)
{
    if (holds(shown->device, shown->inner, &kept->place))
        return true;
    for (size_t i = 0; i < kept->mounts.count; i++) {
        const struct un_mounted *mount = &kept->mounts.mount[i];
        if (un_is_below(mount->point, shown->path) &&
            holds(mount->device, mount->root, &kept->place))
            return true;
    }
    return false;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The directory that a directory is in. Another user's may be closed to us: then by its path. */
static int open_above(int directory)
{
    char path[UN_PATH_MAX];
    int above = un_child(directory, "..");
    if (above >= 0 || errno != EACCES || un_path_of(directory, path))
        return above;
    char *slash = strrchr(path, '/');
    slash[slash == path] = '\0';
    return openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* 1: `upper` is the file `lower`, or a directory on the way to it. -1 with errno. */
static int is_above(int upper, int lower)
{
    struct stat wanted, here, above;
    int at = fcntl(lower, F_DUPFD_CLOEXEC, 3), found = 0;
    if (at < 0 || fstat(upper, &wanted) || fstat(at, &here))
        found = -1;
    while (!found && !is_same(&here, &wanted)) {
        int next = open_above(at);
        un_close_quietly(at);
        at = next;
        if (at < 0 || fstat(at, &above))
            found = -1;
        else if (is_same(&above, &here))
            break;
        here = above;
    }
    if (!found)
        found = is_same(&here, &wanted);
    un_close_quietly(at);
    return found;
}

/* Opens the directory, or the closest one above it if there is none yet. */
static int open_nearest(const char *path, struct kept *kept)
{
    char upper[UN_PATH_MAX];
    snprintf(upper, sizeof upper, "%s", path);
    kept->is_there = true;
    for (;;) {
        kept->fd = openat(AT_FDCWD, upper, O_PATH | O_DIRECTORY | O_CLOEXEC);
        char *slash = strrchr(upper, '/');
        if (kept->fd >= 0 || !slash || !slash[1])
            return kept->fd < 0 ? -1 : 0;
        slash[slash == upper] = '\0';
        kept->is_there = false;
    }
}

static int keep(const char *path, struct kept *kept)
{
    kept->mounts = (struct un_mounts){NULL, NULL, 0};
    if (open_nearest(path, kept) || un_mounts_read(&kept->mounts))
        return -1;
    return find_place(&kept->mounts, kept->fd, &kept->place);
}

/* How a file shows what is kept, in words, or NULL. -1 with errno. */
static int look(const struct kept *kept, int fd, const char **how)
{
    struct place *shown = malloc(sizeof *shown);
    int above = shown ? is_above(fd, kept->fd) : -1;
    int failed = above < 0 || find_place(&kept->mounts, fd, shown);
    *how = NULL;
    if (!failed && (above || shows(shown, kept)))
        *how = "holds";
    else if (!failed && kept->is_there && holds(kept->place.device, kept->place.inner, shown))
        *how = "is in";
    free(shown);
    return failed ? -1 : 0;
}

int un_find_shown(const int *fds, size_t count, const char *directory, size_t *which,
                  const char **how)
{
    struct kept *kept = malloc(sizeof *kept);
    *which = 0;
    *how = NULL;
    if (!kept)
        return -1;
    int failed = keep(directory, kept);
    while (!failed && *which < count) {
        failed = look(kept, fds[*which], how);
        if (failed || *how)
            break;
        ++*which;
    }
    int errnum = errno;
    un_close_quietly(kept->fd);
    un_mounts_free(&kept->mounts);
    free(kept);
    errno = errnum;
    return failed;
}

int un_refuse_to_show(const int *fds, const char *const *names, size_t count, const char *directory,
                      size_t *which, struct un_error *err)
{
    const char *how;
    *which = 0;
    if (!count)
        return 0;
    if (un_find_shown(fds, count, directory, which, &how))
        return un_fail_errno(err, UN_STEP_BIND, directory);
    if (!how)
        return 0;
    return un_fail(err, UN_STEP_BIND, 0, "bind-shows-state",
                   "%.200s can't be shown: it %s %.200s, which is for usernsctl and runsc alone",
                   names[*which], how, directory);
}

/* The sources that are bound, by descriptor and path: how many these are. */
static size_t list_bound(const struct un_launch *launch, const char *access, int *fds,
                         const char **names)
{
    size_t count = 0;
    for (size_t i = 0; i < launch->record_count; i++) {
        const struct un_record *record = &launch->record[i];
        if (record->verb != UN_VERB_BIND ||
            (access && strcmp(un_record_word(record, 2), access) != 0))
            continue;
        const struct un_source *source = un_record_source(launch, record, 0);
        fds[count] = source->fd;
        names[count++] = source->path;
    }
    return count;
}

/* Whether the file is one of the sources itself. */
static size_t find_file(const int *fds, size_t count, int file)
{
    struct stat wanted, shown;
    size_t which = 0;
    if (!count || fstat(file, &wanted))
        return count;
    while (which < count && (fstat(fds[which], &shown) || !is_same(&shown, &wanted)))
        which++;
    return which;
}

/* Whether a program inside could write to the launch itself, or put another one in its place. */
static int check_file(struct un_launch *launch, int file, const int *fds, const char *const *names,
                      size_t count, struct un_error *err)
{
    char path[UN_PATH_MAX], directory[UN_PATH_MAX];
    const char *how = NULL;
    size_t which = find_file(fds, count, file);
    if (un_path_of(file, path))
        return un_launch_fail_file(launch, "launch", err);
    strcpy(directory, path);
    strrchr(directory, '/')[directory[1] && strrchr(directory, '/') == directory] = '\0';
    for (size_t i = 0, at; i < count && which == count; i++) {
        if (un_find_shown(&fds[i], 1, directory, &at, &how))
            return un_launch_fail_file(launch, directory, err);
        if (how && !strcmp(how, "holds"))
            which = i;
    }
    if (which == count)
        return 0;
    un_launch_tell(launch, path, "keep it where no sandbox may write");
    return un_fail(err, UN_STEP_LAUNCH, 0, "launch-untrusted",
                   "%.200s could be written to from the sandbox, since %.200s is shown with :rw",
                   path, names[which]);
}

int un_launch_guard(struct un_launch *launch, int file, const char *state, struct un_error *err)
{
    size_t binds = launch->of_verb[UN_VERB_BIND], which;
    if (!binds)
        return 0;
    int *fds = calloc(binds, sizeof *fds);
    const char **names = calloc(binds, sizeof *names);
    int failed = fds && names ? 0 : un_launch_fail_file(launch, "", err);
    un_launch_tell(launch, NULL, NULL);
    if (!failed)
        failed =
            un_refuse_to_show(fds, names, list_bound(launch, NULL, fds, names), state, &which, err);
    if (!failed)
        failed = check_file(launch, file, fds, names, list_bound(launch, "rw", fds, names), err);
    free(fds);
    free(names);
    return failed;
}
