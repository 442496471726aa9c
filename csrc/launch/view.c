/* Resolving paths as the sandbox's kernel will, before the sandbox exists. */
#include "base/base.h"
#include "launch/launch.h"

/* Returns the length of the path `inside` as it appears in trail->path, where the root directory is
 * "", not "/". */
static size_t inside_length(const char *inside)
{
    return strcmp(inside, "/") ? strlen(inside) : 0;
}

/* Returns the mount whose mount point is the path in the first `length` bytes of `path`, or NULL if
 * that path is not a mount point. */
static const struct un_cover *find_cover(const struct un_view *view, const char *path,
                                         size_t length)
{
    for (size_t i = 0; i < view->cover_count; i++) {
        const struct un_cover *cover = &view->cover[i];
        if (inside_length(cover->inside) == length && !strncmp(cover->inside, path, length))
            return cover;
    }
    return NULL;
}

const struct un_cover *un_view_cover_at(const struct un_view *view, const char *path, size_t length)
{
    for (;;) {
        const struct un_cover *found = find_cover(view, path, length);
        if (found || !length)
            return found;
        while (length && path[--length] != '/')
            continue;
    }
}

/* Returns whether a path is a mount point of runsc or an ancestor of a mount point. gVisor creates
 * an ancestor that is missing, or whose directory on the host is hidden by a mount. */
static bool leads_to_cover(const struct un_view *view, const char *path)
{
    for (size_t i = 0; i < view->cover_count; i++)
        if (un_is_below(view->cover[i].inside, path))
            return true;
    return false;
}

/* Opens the entry `name` of a directory. `directory` is -1 for a directory that only gVisor will
 * create. Returns a descriptor, -1 if the entry does not exist, or -2 with errno set. */
static int open_child(int directory, const char *name)
{
    int fd = directory < 0 ? -1 : un_child(directory, name);
    if (directory < 0 || fd >= 0 || errno == ENOENT || errno == ENOTDIR)
        return fd;
    return -2;
}

enum un_lookup un_lookup_inside(const struct un_trail *trail, const char *name,
                                struct un_entry *found, void *arg)
{
    const struct un_view *view = arg;
    const struct un_cover *cover = find_cover(view, trail->path, strlen(trail->path));
    if (cover) {
        found->fd = cover->fd;
        return UN_LOOKUP_FILE;
    }
    struct stat status;
    int fd = open_child(trail->place[trail->count - 1].fd, name);
    if (fd == -2)
        return UN_LOOKUP_FAILED;
    found->fd = fd;
    found->is_ours = fd >= 0;
    if (leads_to_cover(view, trail->path))
        return UN_LOOKUP_FILE;
    if (fd < 0)
        return UN_LOOKUP_MISSING;
    int failed = fstat(fd, &status);
    if (!failed && !S_ISLNK(status.st_mode))
        return UN_LOOKUP_FILE;
    if (!failed)
        failed = un_read_link(fd, "", found->link);
    un_close_quietly(fd);
    return failed ? UN_LOOKUP_FAILED : UN_LOOKUP_LINK;
}

int un_view_walk(const struct un_view *view, const char *path, struct un_trail *trail)
{
    un_trail_begin(trail, view->top);
    return un_walk(trail, path, un_lookup_inside, (void *)(uintptr_t)view);
}

const char *un_view_inside(const struct un_trail *trail)
{
    return *trail->path ? trail->path : "/";
}

int un_view_wanted(const struct un_trail *trail, char wanted[UN_PATH_MAX])
{
    if (*trail->missing)
        return un_path_join(wanted, trail->path, trail->missing);
    strcpy(wanted, un_view_inside(trail));
    return 0;
}

bool un_view_is_directory(struct un_trail *trail)
{
    struct stat status;
    int fd = un_trail_last(trail)->fd;
    /* If the last component of the path has no descriptor, it is a directory that gVisor will
     * create for a mount point. */
    return fd < 0 || (!fstat(fd, &status) && S_ISDIR(status.st_mode));
}

bool un_view_has_directory(const struct un_view *view, const char *inside)
{
    un_auto_trail struct un_trail trail;
    return !un_view_walk(view, inside, &trail) && !*trail.missing && un_view_is_directory(&trail);
}

bool un_view_is_of_gvisor(const char *inside)
{
    static const char *const tops[] = {"/proc", "/sys", "/dev"};
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
        if (un_is_below(inside, tops[i]))
            return true;
    return false;
}

/* Returns whether users in the sandbox might have permission to search a directory that this
 * process may not search, because the sandbox maps the directory's owner and group. */
static bool may_be_searched(const struct un_view *view, int directory)
{
    struct stat status;
    return view->owners && !fstat(directory, &status) &&
           un_map_find(&view->owners->of[UN_UID], UN_OUTSIDE, status.st_uid) &&
           un_map_find(&view->owners->of[UN_GID], UN_OUTSIDE, status.st_gid);
}

/* Returns whether a lookup that failed with `errnum` will certainly fail with the same errno in the
 * sandbox. */
static bool is_certain(const struct un_view *view, struct un_trail *trail, int errnum)
{
    if (errnum == EACCES)
        return !may_be_searched(view, un_trail_last(trail)->fd);
    if (errnum == ENAMETOOLONG)
        return !trail->is_limited;
    return errnum == ENOTDIR || errnum == ELOOP;
}

static void fill_reached(const struct un_view *view, struct un_trail *trail,
                         struct un_reached *reached)
{
    char wanted[UN_PATH_MAX];
    const struct un_place *last = un_trail_last(trail);
    /* Cut off the name whose lookup has failed, because extend() has already appended it to the
     * path. */
    trail->path[last->length] = '\0';
    strcpy(reached->inside, un_view_inside(trail));
    if (reached->errnum) {
        reached->is_certain = is_certain(view, trail, reached->errnum);
        return;
    }
    strcpy(reached->missing, trail->missing);
    /* Ignore a failure, which only means that the path was truncated: un_view_is_of_gvisor()
     * compares only the beginning of the path. */
    (void)un_view_wanted(trail, wanted);
    reached->is_of_gvisor = un_view_is_of_gvisor(wanted);
    reached->is_implicit = last->fd < 0;
    reached->fd = last->fd < 0 ? -1 : fcntl(last->fd, F_DUPFD_CLOEXEC, 3);
    if (last->fd >= 0 && reached->fd < 0)
        reached->errnum = errno;
}

int un_view_follow(const struct un_view *view, const char *start, const char *path,
                   struct un_reached *reached)
{
    un_auto_free char *joined = NULL;
    memset(reached, 0, sizeof *reached);
    reached->fd = -1;
    if (*path != '/' && asprintf(&joined, "%s/%s", start, path) < 0) {
        reached->errnum = ENOMEM;
        return -1;
    }
    un_auto_trail struct un_trail trail;
    if (un_view_walk(view, joined ? joined : path, &trail))
        reached->errnum = errno;
    fill_reached(view, &trail, reached);
    return reached->fd;
}

int un_view_new(int top, struct un_view **view)
{
    *view = calloc(1, sizeof **view);
    if (!*view) {
        un_close_quietly(top);
        return -1;
    }
    (*view)->top = top;
    return 0;
}

int un_view_add(struct un_view *view, const char *inside, const char *source, int fd)
{
    if (find_cover(view, inside, inside_length(inside))) {
        close(fd);
        return 0;
    }
    struct un_cover cover = {.inside = strdup(inside), .source = strdup(source), .fd = fd};
    struct un_cover *more = reallocarray(view->cover, view->cover_count + 1, sizeof *view->cover);
    if (more)
        view->cover = more;
    if (!cover.inside || !cover.source || !more) {
        free(cover.inside);
        free(cover.source);
        un_close_quietly(fd);
        return -1;
    }
    view->cover[view->cover_count++] = cover;
    return 0;
}

int un_view_set_owners(struct un_view *view, const struct un_idmap *ids)
{
    free(view->owners);
    view->owners = malloc(sizeof *view->owners);
    if (!view->owners)
        return -1;
    *view->owners = *ids;
    return 0;
}

void un_view_clear(struct un_view *view)
{
    un_close_quietly(view->top);
    for (size_t i = 0; i < view->cover_count; i++) {
        un_close_quietly(view->cover[i].fd);
        free(view->cover[i].inside);
        free(view->cover[i].source);
    }
    free(view->cover);
    free(view->owners);
}

void un_view_free(struct un_view **view)
{
    struct un_view *freed = *view;
    *view = NULL;
    if (freed)
        un_view_clear(freed);
    free(freed);
}
