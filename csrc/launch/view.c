/* Paths as the command will see them, followed before it runs. */
#include "base/base.h"
#include "launch/launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The paths of covers are never "": that of the root is "/". */
static size_t length_of(const char *inside)
{
    return strcmp(inside, "/") ? strlen(inside) : 0;
}

/* The cover that is exactly there. */
static const struct un_cover *find_cover(const struct un_launch *launch, const char *path,
                                         size_t length)
{
    for (size_t i = 0; i < launch->root.cover_count; i++) {
        const struct un_cover *cover = &launch->root.cover[i];
        if (length_of(cover->inside) == length && !strncmp(cover->inside, path, length))
            return cover;
    }
    return NULL;
}

const struct un_cover *un_view_cover_at(const struct un_launch *launch, const char *path,
                                        size_t length)
{
    for (;;) {
        const struct un_cover *found = find_cover(launch, path, length);
        if (found || !length)
            return found;
        while (length && path[--length] != '/')
            continue;
    }
}

/* Whether this is the place of a cover or a directory on the way to one. Those exist inside even
 * where a mount hides what is there for us: gVisor makes them up. */
static bool leads_to_cover(const struct un_launch *launch, const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < launch->root.cover_count; i++) {
        const char *inside = launch->root.cover[i].inside;
        if (!strncmp(inside, path, length) && (!inside[length] || inside[length] == '/'))
            return true;
    }
    return false;
}

/* An entry of a directory; -1: there is none. -2: errno tells. */
static int look_for(int directory, const char *name)
{
    int fd = directory < 0 ? -1 : un_child(directory, name);
    if (directory < 0 || fd >= 0 || errno == ENOENT || errno == ENOTDIR)
        return fd;
    return -2;
}

static enum un_look look(const struct un_trail *trail, const char *name, struct un_entry *found,
                         void *arg)
{
    const struct un_launch *launch = arg;
    const struct un_cover *cover = find_cover(launch, trail->path, strlen(trail->path));
    if (cover) {
        found->fd = cover->fd;
        return UN_LOOK_FILE;
    }
    struct stat status;
    int fd = look_for(trail->place[trail->count - 1].fd, name);
    if (fd == -2)
        return UN_LOOK_FAILED;
    found->fd = fd;
    found->is_ours = fd >= 0;
    if (leads_to_cover(launch, trail->path))
        return UN_LOOK_FILE;
    if (fd < 0)
        return UN_LOOK_MISSING;
    int failed = fstat(fd, &status);
    if (!failed && !S_ISLNK(status.st_mode))
        return UN_LOOK_FILE;
    if (!failed)
        failed = un_read_link(fd, found->link);
    un_close_quietly(fd);
    return failed ? UN_LOOK_FAILED : UN_LOOK_LINK;
}

int un_view_walk(const struct un_launch *launch, const char *path, struct un_trail *trail)
{
    un_trail_begin(trail, launch->root.top);
    return un_walk(trail, path, look, (void *)(uintptr_t)launch);
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
    /* What is on the way to a mount, gVisor makes up. */
    return fd < 0 || (!fstat(fd, &status) && S_ISDIR(status.st_mode));
}

int un_view_add(struct un_launch *launch, const char *inside, const char *source, int fd)
{
    struct un_root *root = &launch->root;
    if (find_cover(launch, inside, length_of(inside))) {
        close(fd);
        return 0;
    }
    struct un_cover cover = {.inside = strdup(inside), .source = strdup(source), .fd = fd};
    if (!cover.inside || !cover.source) {
        free(cover.inside);
        free(cover.source);
        un_close_quietly(fd);
        return -1;
    }
    root->cover[root->cover_count++] = cover;
    return 0;
}

bool un_launch_has_directory(struct un_launch *launch, const char *inside)
{
    un_auto_trail struct un_trail trail;
    return !un_view_walk(launch, inside, &trail) && !*trail.missing && un_view_is_directory(&trail);
}
