/*
 * Resolving paths by descriptors.
 *
 * A user who may write to a directory can replace an entry by a symbolic link at any time. So each
 * step opens a single name relative to a descriptor, with O_NOFOLLOW. The contents of a symbolic
 * link are read and resolved component by component in the same way.
 */
#include "base/base.h"
#include "launch/launch.h"

#define PENDING_MAX (4 * UN_PATH_MAX)

/* The part of the path that is not yet resolved, which begins at text + at. */
struct pending {
    char text[PENDING_MAX];
    size_t at;
};

int un_child(int directory, const char *name)
{
    return openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

int un_read_link(int directory, const char *name, char text[UN_PATH_MAX])
{
    ssize_t length = readlinkat(directory, name, text, UN_PATH_MAX);
    if (length == UN_PATH_MAX)
        errno = ENAMETOOLONG;
    if (length < 0 || length == UN_PATH_MAX)
        return -1;
    text[length] = '\0';
    return 0;
}

int un_path_of(int fd, char path[UN_PATH_MAX])
{
    char name[UN_FD_PATH_MAX];
    return un_read_link(AT_FDCWD, un_fd_path(fd, name), path);
}

void un_trail_begin(struct un_trail *trail, int root)
{
    trail->path[0] = trail->missing[0] = '\0';
    trail->place[0] = (struct un_place){.fd = root};
    trail->count = 1;
    trail->is_limited = false;
}

/* Shortens `trail` to its first `count` components, and closes the descriptors of the others. */
static void cut_trail(struct un_trail *trail, size_t count)
{
    while (trail->count > count) {
        const struct un_place *last = &trail->place[--trail->count];
        if (last->is_ours)
            un_close_quietly(last->fd);
    }
    trail->path[un_trail_last(trail)->length] = '\0';
}

void un_trail_close(struct un_trail *trail)
{
    if (trail->count)
        cut_trail(trail, 1);
}

static int fail_limited(struct un_trail *trail)
{
    trail->is_limited = true;
    errno = ENAMETOOLONG;
    return -1;
}

/* Inserts `text`, such as the contents of a symbolic link, at the beginning of the pending path. */
static int put_first(struct un_trail *trail, struct pending *pending, const char *text)
{
    size_t length = strlen(text);
    if (length + 1 > pending->at)
        return fail_limited(trail);
    pending->text[--pending->at] = '/';
    pending->at -= length;
    memcpy(pending->text + pending->at, text, length);
    return 0;
}

/* Removes the first name from the pending path, and stores it in `name`. Returns false at the end
 * of the path, or after a failure. After a failure, sets *failed to -1. */
static bool take_name(struct pending *pending, char name[NAME_MAX + 1], int *failed)
{
    const char *from = pending->text + pending->at;
    size_t length = strcspn(from, "/");
    *failed = length > NAME_MAX ? -1 : 0;
    if (*failed)
        errno = ENAMETOOLONG;
    if (!*from || *failed)
        return false;
    memcpy(name, from, length);
    name[length] = '\0';
    pending->at += length + 1;
    return true;
}

static bool is_nothing(const char *name)
{
    return !*name || !strcmp(name, ".");
}

/* Stores `first` and the pending path in trail->missing, without empty names and ".". */
static int note_missing(struct un_trail *trail, const char *first, struct pending *pending)
{
    char name[NAME_MAX + 1];
    int failed;
    size_t length = (size_t)snprintf(trail->missing, sizeof trail->missing, "%s", first);
    while (take_name(pending, name, &failed)) {
        if (is_nothing(name))
            continue;
        length +=
            (size_t)snprintf(trail->missing + length, sizeof trail->missing - length, "/%s", name);
        if (length >= sizeof trail->missing)
            return fail_limited(trail);
    }
    return failed;
}

/* Appends a name to trail->path. */
static int extend(struct un_trail *trail, const char *name)
{
    size_t length = un_trail_last(trail)->length, more = strlen(name);
    if (trail->count == UN_TRAIL_MAX || length + 1 + more >= sizeof trail->path)
        return fail_limited(trail);
    trail->path[length] = '/';
    memcpy(trail->path + length + 1, name, more + 1);
    return 0;
}

static int follow_link(struct un_trail *trail, const char *link, struct pending *pending,
                       int *links)
{
    if (++*links > UN_LINKS_MAX) {
        errno = ELOOP;
        return -1;
    }
    cut_trail(trail, *link == '/' ? 1 : trail->count);
    return put_first(trail, pending, link);
}

/* Resolves the next component `name` of the path. Returns 0 if the name was resolved, 1 if it does
 * not exist and the rest of the path was stored in trail->missing, or -1 with errno set. */
static int step(struct un_trail *trail, const char *name, struct pending *pending, int *links,
                un_lookup_function *lookup, void *arg)
{
    struct un_entry found = {.fd = -1};
    if (extend(trail, name))
        return -1;
    switch (lookup(trail, name, &found, arg)) {
    case UN_LOOKUP_FILE:
        trail->place[trail->count++] = (struct un_place){
            .fd = found.fd, .is_ours = found.is_ours, .length = strlen(trail->path)};
        return 0;
    case UN_LOOKUP_LINK:
        return follow_link(trail, found.link, pending, links);
    case UN_LOOKUP_MISSING:
        cut_trail(trail, trail->count);
        return note_missing(trail, name, pending) ? -1 : 1;
    default:
        return -1;
    }
}

/* Fails as the kernel would if a ".", ".." or trailing slash follows the last file of `trail`.
 * Fails with ENOTDIR if that file is not a directory, and with EACCES if search permission for the
 * directory is missing (path_resolution(7)). */
static int check_directory(struct un_trail *trail, const char *name)
{
    struct stat status;
    int fd = un_trail_last(trail)->fd;
    if (trail->count == 1 || fd < 0)
        return 0;
    if (fstatat(fd, *name ? "." : "", &status, AT_EMPTY_PATH))
        return -1;
    if (S_ISDIR(status.st_mode))
        return 0;
    errno = ENOTDIR;
    return -1;
}

int un_walk(struct un_trail *trail, const char *path, un_lookup_function *lookup, void *arg)
{
    struct pending pending = {.at = PENDING_MAX - 1};
    char name[NAME_MAX + 1];
    int links = 0, failed = put_first(trail, &pending, path);
    while (!failed && take_name(&pending, name, &failed)) {
        bool is_parent = !strcmp(name, "..");
        if (!is_parent && !is_nothing(name))
            failed = step(trail, name, &pending, &links, lookup, arg);
        else
            failed = check_directory(trail, name);
        if (!failed && is_parent)
            cut_trail(trail, trail->count > 1 ? trail->count - 1 : 1);
        if (failed == 1)
            return 0;
    }
    return failed;
}
