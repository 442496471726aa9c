/*
 * Keeping usernsctl's own directories out of sandboxes. The state directory records which processes
 * to kill and which namespaces to join, and the directory of templates holds the memory of
 * checkpointed programs. With write access to them, a program in a sandbox could make usernsctl
 * kill other processes; with read access, it could read the memory of other sandboxes. The launch
 * file decides which files the next sandbox sees, so the program must not be able to write to that
 * file, either.
 *
 * Directories are compared by device and inode, not by name, because several paths may lead to the
 * same directory through symbolic links and other mounts. A bind-mount source is also rejected if
 * it contains a symbolic link on the path to a hidden directory, because a program with write
 * access could redirect the link.
 */
#include "base/base.h"
#include "launch/launch.h"

/* The location of a file: `path` is relative to the root directory of this process, and `inner` to
 * the root of the filesystem that contains the file. */
struct place {
    const char *device;
    char inner[2 * UN_PATH_MAX];
    char path[UN_PATH_MAX];
};

/* A directory that must stay hidden from sandboxes. */
struct hidden_dir {
    /* fd[0] is the hidden directory, or its closest existing ancestor; the other elements are the
     * directories that contain the symbolic links on the hidden directory's path */
    int fd[1 + UN_LINKS_MAX];
    size_t count;
    bool is_there; /* whether the hidden directory exists */
    /* location of the element of `fd` that is being compared with the bind-mount sources */
    struct place place;
    struct un_mounts mounts;
};

/* Sets place->inner to the root of the mount (field 4 in /proc/PID/mountinfo), followed by the part
 * of place->path below the mount point. */
static void join_paths(const struct un_mounted *mount, struct place *place)
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
        join_paths(mount, place);
    else /* The mount belongs to another mount namespace, so its root is unknown. */
        strcpy(place->inner, place->path);
    return 0;
}

/* Returns whether the file at `place` is on the filesystem `device`, in or below the directory
 * `inner`. */
static bool mount_holds(const char *device, const char *inner, const struct place *place)
{
    return !strcmp(device, place->device) && un_is_below(place->inner, inner);
}

/* Returns whether a bind mount of the directory `shown` contains the hidden directory, in `shown`
 * itself or in a mount below it. */
static bool exposes(const struct place *shown, const struct hidden_dir *hidden_dir)
{
    if (mount_holds(shown->device, shown->inner, &hidden_dir->place))
        return true;
    for (size_t i = 0; i < hidden_dir->mounts.count; i++) {
        const struct un_mounted *mount = &hidden_dir->mounts.mount[i];
        if (un_is_below(mount->point, shown->path) &&
            mount_holds(mount->device, mount->root, &hidden_dir->place))
            return true;
    }
    return false;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Opens the parent of a directory. If this process lacks permission to search "..", as in another
 * user's directory, opens the parent by its absolute path. Returns a descriptor, or -1 with errno
 * set. */
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

/* Returns 1 if `upper` is `lower` or one of its ancestor directories, 0 if not, or -1 with errno
 * set. */
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
        else
            here = above;
    }
    if (!found)
        found = is_same(&here, &wanted);
    un_close_quietly(at);
    return found;
}

/* Returns whether `errnum`, the error of a failed path lookup, means that the path names no
 * file. */
static bool is_unreachable(int errnum)
{
    return errnum == ENOENT || errnum == ENOTDIR || errnum == EACCES;
}

/* Looks up a name for un_walk(). If the name is a symbolic link, appends to hidden_dir->fd a
 * descriptor of the directory that contains the link. Treats an unreachable file, and a file that
 * is not a directory, as missing. */
static enum un_lookup lookup_recording_links(const struct un_trail *trail, const char *name,
                                             struct un_entry *found, void *arg)
{
    struct hidden_dir *hidden_dir = arg;
    struct stat status;
    int directory = trail->place[trail->count - 1].fd;
    enum un_lookup result = un_lookup_any_link(trail, name, found, NULL);
    if (result == UN_LOOKUP_LINK && hidden_dir->count <= UN_LINKS_MAX) {
        hidden_dir->fd[hidden_dir->count] = fcntl(directory, F_DUPFD_CLOEXEC, 3);
        return hidden_dir->fd[hidden_dir->count++] < 0 ? UN_LOOKUP_FAILED : result;
    }
    if (result != UN_LOOKUP_FILE)
        return result == UN_LOOKUP_FAILED && is_unreachable(errno) ? UN_LOOKUP_MISSING : result;
    if (!fstat(found->fd, &status) && S_ISDIR(status.st_mode))
        return UN_LOOKUP_FILE;
    un_close_quietly(found->fd);
    return UN_LOOKUP_MISSING;
}

/* Opens the hidden directory, or its closest existing ancestor. If the path has too many symbolic
 * links or too long a name, the directory counts as missing. Returns 0, or -1 with errno set. */
static int open_nearest(const char *path, struct hidden_dir *hidden_dir)
{
    un_auto_close int root = un_child(AT_FDCWD, "/");
    if (root < 0)
        return -1;
    un_auto_trail struct un_trail trail;
    un_trail_begin(&trail, root);
    int failed = un_walk(&trail, path, lookup_recording_links, hidden_dir);
    hidden_dir->is_there = !failed && !*trail.missing;
    if (!failed || is_unreachable(errno) || errno == ELOOP || errno == ENAMETOOLONG)
        hidden_dir->fd[0] = fcntl(un_trail_last(&trail)->fd, F_DUPFD_CLOEXEC, 3);
    return hidden_dir->fd[0] < 0 ? -1 : 0;
}

static int open_hidden_dir(const char *path, struct hidden_dir *hidden_dir)
{
    hidden_dir->mounts = (struct un_mounts){NULL, NULL, 0};
    hidden_dir->fd[0] = -1;
    hidden_dir->count = 1;
    return open_nearest(path, hidden_dir) ||
                   un_mounts_read(&hidden_dir->mounts, "/proc/self/mountinfo")
               ? -1
               : 0;
}

static void close_hidden_dir(struct hidden_dir *hidden_dir)
{
    int errnum = errno;
    for (size_t i = 0; i < hidden_dir->count; i++)
        un_close_quietly(hidden_dir->fd[i]);
    un_mounts_free(&hidden_dir->mounts);
    free(hidden_dir);
    errno = errnum;
}

/* Determines whether and how a bind mount of the file `fd` exposes the directory
 * hidden_dir->fd[number]. Sets *exposure to a verb phrase for the error message, such as "is in",
 * or to NULL if the file does not expose the directory. Returns 0, or -1 with errno set. */
static int find_exposure(const struct hidden_dir *hidden_dir, size_t number, int fd,
                         const char **exposure)
{
    un_auto_free struct place *shown = malloc(sizeof *shown);
    int above = shown ? is_above(fd, hidden_dir->fd[number]) : -1;
    int failed = above < 0 || find_place(&hidden_dir->mounts, fd, shown);
    *exposure = NULL;
    if (!failed && (above || exposes(shown, hidden_dir)))
        *exposure = number ? "has a link to" : "contains";
    else if (!failed && !number && hidden_dir->is_there &&
             mount_holds(hidden_dir->place.device, hidden_dir->place.inner, shown))
        *exposure = "is in";
    return failed ? -1 : 0;
}

/* Finds the first of the `count` files `fds` whose bind mount exposes the directory
 * hidden_dir->fd[number]. Sets *index to the index of that file, or to `count` if no file exposes
 * the directory, and *exposure as find_exposure() does. Returns 0, or -1 with errno set. */
static int find_first_exposure(const struct hidden_dir *hidden_dir, size_t number, const int *fds,
                               size_t count, size_t *index, const char **exposure)
{
    for (*index = 0; *index < count; ++*index)
        if (find_exposure(hidden_dir, number, fds[*index], exposure))
            return -1;
        else if (*exposure)
            break;
    return 0;
}

int un_find_exposed(const int *fds, size_t count, const char *directory, size_t *index,
                    const char **exposure)
{
    struct hidden_dir *hidden_dir = malloc(sizeof *hidden_dir);
    *index = 0;
    *exposure = NULL;
    if (!hidden_dir)
        return -1;
    int failed = open_hidden_dir(directory, hidden_dir);
    for (size_t i = 0; !failed && !*exposure && i < hidden_dir->count; i++)
        failed = find_place(&hidden_dir->mounts, hidden_dir->fd[i], &hidden_dir->place) ||
                 find_first_exposure(hidden_dir, i, fds, count, index, exposure);
    close_hidden_dir(hidden_dir);
    return failed ? -1 : 0;
}

int un_refuse_to_show(const int *fds, const char *const *names, size_t count, const char *directory,
                      size_t *index, struct un_error *err)
{
    const char *exposure;
    *index = 0;
    if (!count)
        return 0;
    if (un_find_exposed(fds, count, directory, index, &exposure))
        return un_fail_errno(err, UN_STEP_BIND, directory);
    if (!exposure)
        return 0;
    return un_fail(err, UN_STEP_BIND, 0, "bind-shows-state",
                   "%.200s can't be bind-mounted: this path %s %.200s, which no sandbox may see",
                   names[*index], exposure, directory);
}

/* Stores the descriptors and paths of those bind-mount sources that have the access `access`, "ro"
 * or "rw"; NULL selects all bind mounts. Returns the number of stored descriptors. */
static size_t list_bind_sources(const struct un_launch *launch, const char *access, int *fds,
                                const char **names)
{
    size_t count = 0;
    UN_EACH_RECORD (record, launch, UN_VERB_BIND) {
        if (access && strcmp(un_record_argument(record, 2), access) != 0)
            continue;
        const struct un_source *source = un_record_source(launch, record, 0);
        fds[count] = source->fd;
        names[count++] = source->path;
    }
    return count;
}

/* Returns the index in `fds` of the descriptor that refers to the same file as `file`, or `count`
 * if no descriptor does. */
static size_t find_file(const int *fds, size_t count, int file)
{
    struct stat wanted, shown;
    size_t index = 0;
    if (!count || fstat(file, &wanted))
        return count;
    while (index < count && (fstat(fds[index], &shown) || !is_same(&shown, &wanted)))
        index++;
    return index;
}

/* Fails if a program in the sandbox could write to the launch file or replace it. */
static int check_file(struct un_launch *launch, int file, const int *fds, const char *const *names,
                      size_t count, struct un_error *err)
{
    char path[UN_PATH_MAX], directory[UN_PATH_MAX];
    const char *exposure = NULL;
    size_t index = find_file(fds, count, file);
    if (un_path_of(file, path))
        return un_launch_fail_file(launch, "launch", err);
    strcpy(directory, path);
    strrchr(directory, '/')[directory[1] && strrchr(directory, '/') == directory] = '\0';
    for (size_t i = 0, at; i < count && index == count; i++) {
        if (un_find_exposed(&fds[i], 1, directory, &at, &exposure))
            return un_launch_fail_file(launch, directory, err);
        if (exposure && !strcmp(exposure, "contains"))
            index = i;
    }
    if (index == count)
        return 0;
    un_launch_set_remedy(launch, path,
                         "move the launch to a directory that no sandbox may write to");
    return un_fail(err, UN_STEP_LAUNCH, 0, "launch-untrusted",
                   "a sandbox could write to %.200s, since %.200s is bind-mounted with :rw", path,
                   names[index]);
}

static bool is_there(const char *path)
{
    struct stat status;
    return !stat(path, &status);
}

/* Fails if a bind-mount source exposes the state directory or the directory of templates. As long
 * as the directory of templates does not exist, checks only whether a writable bind mount would
 * expose it. */
static int check_hidden(struct un_launch *launch, const struct un_hidden *hidden, int *fds,
                        const char **names, struct un_error *err)
{
    size_t index;
    size_t count = list_bind_sources(launch, NULL, fds, names);
    if (un_refuse_to_show(fds, names, count, hidden->state, &index, err))
        return -1;
    if (!hidden->templates)
        return 0;
    count = list_bind_sources(launch, is_there(hidden->templates) ? NULL : "rw", fds, names);
    return un_refuse_to_show(fds, names, count, hidden->templates, &index, err);
}

int un_launch_guard(struct un_launch *launch, int file, const struct un_hidden *hidden,
                    struct un_error *err)
{
    size_t binds = launch->of_verb[UN_VERB_BIND];
    if (!binds)
        return 0;
    un_auto_free int *fds = calloc(binds, sizeof *fds);
    un_auto_free const char **names = calloc(binds, sizeof *names);
    if (!fds || !names)
        return un_launch_fail_file(launch, "", err);
    un_launch_set_remedy(launch, NULL, NULL);
    if (check_hidden(launch, hidden, fds, names, err))
        return -1;
    return check_file(launch, file, fds, names, list_bind_sources(launch, "rw", fds, names), err);
}
