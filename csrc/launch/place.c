/* Creating mount points in the root filesystem. */
#include "base/base.h"
#include "launch/launch.h"

/* Maximum number of attempts to resolve the path of a mount point. After each failed attempt,
 * open_up() mounts a copy of one directory of the path on that directory, at most once for each
 * directory. A path has at most UN_TRAIL_MAX directories; the factor 2 allows for other processes,
 * which may change the path's symbolic links between attempts. */
#define OPEN_UP_MAX (2 * UN_TRAIL_MAX)

/* Quotes a string for a shell. Truncates the result to `size` bytes. */
static void quote(const char *word, char *to, size_t size)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789@%+=:,./-_";
    size_t length = 0;
    if (*word && !word[strspn(word, plain)]) {
        snprintf(to, size, "%s", word);
        return;
    }
    to[length++] = '\'';
    for (; *word && length + 6 < size; word++)
        if (*word == '\'')
            length += (size_t)snprintf(to + length, size - length, "'\"'\"'");
        else
            to[length++] = *word;
    to[length++] = '\'';
    to[length] = '\0';
}

int un_place_fail_missing(struct un_launch *launch, const struct un_trail *trail,
                          struct un_error *err)
{
    char wanted[UN_PATH_MAX], absent[2 * UN_PATH_MAX], quoted[2 * UN_PATH_MAX];
    if (un_view_wanted(trail, wanted))
        return un_launch_fail_file(launch, un_view_inside(trail), err);
    const struct un_cover *cover =
        un_view_cover_at(&launch->view, trail->path, strlen(trail->path));
    if (!cover || !*cover->source) {
        un_launch_set_remedy(launch, wanted, NULL);
        return un_fail(err, UN_STEP_BIND, 0, NULL,
                       "the mount point %.300s can't be created: another mount hides its directory",
                       wanted);
    }
    size_t covered = strcmp(cover->inside, "/") ? strlen(cover->inside) : 0;
    snprintf(absent, sizeof absent, "%s%s", cover->source, wanted + covered);
    quote(absent, quoted, sizeof quoted);
    un_launch_set_remedy(launch, wanted, "create %s first", quoted);
    *strrchr(absent, '/') = '\0';
    return un_fail(err, UN_STEP_BIND, 0, NULL,
                   "the mount point %.200s does not exist in %.200s, which is mounted there",
                   wanted, *absent ? absent : "/");
}

/* Returns whether usernsctl may create entries in the directory trail->place[at]. Also returns true
 * if it may not, but a later check will report the reason more precisely. */
static bool may_make_entries(const struct un_launch *launch, const struct un_trail *trail,
                             size_t at, struct stat *status)
{
    const struct un_place *place = &trail->place[at];
    if (place->fd < 0 || un_view_cover_at(&launch->view, trail->path, place->length))
        return true;
    return fstat(place->fd, status) || status->st_dev == launch->root.device ||
           !S_ISDIR(status->st_mode);
}

/* Returns whether a user other than the caller and root could replace entries of the directory
 * trail->place[at] while runsc resolves a path through that directory. */
static bool may_change(const struct un_launch *launch, const struct un_trail *trail, size_t at)
{
    struct stat status;
    if (may_make_entries(launch, trail, at, &status) ||
        un_file_ids_contain(&launch->closed_dirs, &status))
        return false;
    return status.st_uid != 0 || status.st_mode & 0022;
}

/* Returns whether `directory` is a copy that open_up() has mounted, because another user can change
 * the original directory. The copy contains the other user's symbolic links. */
static bool is_copy(const struct un_launch *launch, int directory)
{
    struct stat status;
    return directory >= 0 && !fstat(directory, &status) &&
           un_file_ids_contain(&launch->copied_dirs, &status);
}

/* The argument of lookup_without_foreign(), which stores the path of a symbolic link that it
 * rejects here. */
struct link_check {
    struct un_launch *launch;
    char link[UN_PATH_MAX];
};

/* Looks up a name in the sandbox. Fails with EACCES for a symbolic link in a directory of the host
 * that another user can change: the link could lead the mount to any directory of the sandbox. */
static enum un_lookup lookup_without_foreign(const struct un_trail *trail, const char *name,
                                             struct un_entry *found, void *arg)
{
    struct link_check *check = arg;
    size_t last = trail->count - 1;
    enum un_lookup result = un_lookup_inside(trail, name, found, &check->launch->view);
    if (result != UN_LOOKUP_LINK)
        return result;
    if (!is_copy(check->launch, trail->place[last].fd) && !may_change(check->launch, trail, last))
        return result;
    strcpy(check->link, trail->path);
    errno = EACCES;
    return UN_LOOKUP_FAILED;
}

/* Resolves the path of a mount point. If runsc will access the mount point by its path, and the
 * sandbox sees directories of the host, follows no symbolic link of another user. */
static int walk_to_mount_point(struct un_launch *launch, const char *inside, bool for_runsc,
                               struct un_trail *trail, struct un_error *err)
{
    struct link_check check = {.launch = launch};
    int failed;
    if (for_runsc && un_shows_host(launch)) {
        un_trail_begin(trail, launch->view.top);
        failed = un_walk(trail, inside, lookup_without_foreign, &check);
    } else {
        failed = un_view_walk(&launch->view, inside, trail);
    }
    if (!failed)
        return 0;
    un_launch_fail_file(launch, inside, err);
    if (!*check.link)
        return -1;
    return un_fail(err, UN_STEP_BIND, 0, "foreign-link",
                   "%.150s: the symbolic link %.200s is in a directory that another user may "
                   "change",
                   inside, check.link);
}

/* Returns the index in trail->place of the first directory on which open_up() must mount a copy, or
 * -1 if no directory needs a copy. */
static int find_closed(const struct un_launch *launch, const struct un_trail *trail, bool for_runsc)
{
    struct stat status;
    for (size_t at = 0; for_runsc && at + 1 < trail->count; at++)
        if (may_change(launch, trail, at))
            return (int)at;
    if (*trail->missing && !may_make_entries(launch, trail, trail->count - 1, &status))
        return (int)trail->count - 1;
    return -1;
}

/* Mounts a copy on the host directory trail->place[at]. The copy is a new directory that has the
 * same entries, and in which usernsctl can create mount points. */
static int open_up(struct un_launch *launch, const struct un_trail *trail, size_t at,
                   const char *name, struct un_error *err)
{
    static const char *const nothing[] = {NULL};
    struct stat status, copy;
    int directory = trail->place[at].fd;
    if (un_root_status(launch, directory, name, &status, err))
        return -1;
    un_auto_close int ours = un_root_new(launch, launch->root.spare, true, NULL, err);
    if (ours < 0 || un_root_status(launch, ours, name, &copy, err))
        return -1;
    if (may_change(launch, trail, at) && un_file_ids_add(&launch->copied_dirs, &copy))
        return un_launch_fail_file(launch, name, err);
    if (un_root_mirror(launch, directory, ours, nothing, err) ||
        un_root_set_mode(launch, ours, status.st_mode, name, err))
        return -1;
    return un_bind(ours, directory, 0, name, err);
}

/* Resolves the path of a mount point, and mounts copies on directories of the path (open_up())
 * until the mount point can be created. */
static int open_up_to(struct un_launch *launch, const char *inside, bool for_runsc,
                      struct un_trail *trail, struct un_error *err)
{
    for (int tries = 0; tries < OPEN_UP_MAX; tries++) {
        if (walk_to_mount_point(launch, inside, for_runsc, trail, err))
            return -1;
        int closed = find_closed(launch, trail, for_runsc);
        if (closed < 0)
            return 0;
        if (open_up(launch, trail, (size_t)closed, inside, err))
            return -1;
        un_trail_close(trail);
    }
    errno = ELOOP;
    return un_launch_fail_file(launch, inside, err);
}

/* Creates the missing components of a path. The last component becomes a directory or a file, the
 * others become directories. */
static int make_missing(struct un_launch *launch, struct un_trail *trail, bool is_directory,
                        struct un_error *err)
{
    char name[NAME_MAX + 1];
    const char *at = trail->missing;
    int directory = un_trail_last(trail)->fd, created = -1;
    while (*at) {
        size_t length = strcspn(at, "/");
        bool is_last = !at[length];
        memcpy(name, at, length);
        name[length] = '\0';
        int next = un_root_make(launch, directory, name, is_directory || !is_last, err);
        un_close_quietly(created);
        if (next < 0)
            return -1;
        directory = created = next;
        at += length + !is_last;
    }
    un_close_quietly(created);
    return 0;
}

static int make(struct un_launch *launch, const char *inside, bool is_directory, bool for_runsc,
                struct un_trail *trail, struct un_error *err)
{
    char wanted[UN_PATH_MAX];
    if (open_up_to(launch, inside, for_runsc, trail, err))
        return -1;
    if (!*trail->missing)
        return 0;
    if (un_trail_last(trail)->fd < 0 ||
        un_view_cover_at(&launch->view, trail->path, strlen(trail->path)))
        return un_place_fail_missing(launch, trail, err);
    if (un_view_wanted(trail, wanted))
        return un_launch_fail_file(launch, inside, err);
    if (make_missing(launch, trail, is_directory, err))
        return -1;
    un_trail_close(trail);
    if (un_view_walk(&launch->view, wanted, trail))
        return un_launch_fail_file(launch, wanted, err);
    return 0;
}

int un_place_make(struct un_launch *launch, const char *inside, bool is_directory, bool for_runsc,
                  struct un_trail *trail, struct un_error *err)
{
    int failed = make(launch, inside, is_directory, for_runsc, trail, err);
    if (!failed || err->step != UN_STEP_SANDBOX)
        return failed;
    un_launch_set_remedy(launch, inside, NULL);
    return un_fail(err, UN_STEP_BIND, err->errnum, NULL, "%.400s can't be created in the sandbox",
                   inside);
}
