/* Opening files of the host. Each path is resolved only once, and symbolic links that an untrusted
 * user owns are rejected. */
#include "base/base.h"
#include "launch/launch.h"

#include <endian.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sys/xattr.h>

/* Maximum number of entries of an access control list (acl(5)). A longer list counts as
 * unreadable. */
#define ACL_ENTRIES_MAX 64

/* Owner and path of a symbolic link that was rejected because its owner is not trusted. */
struct foreign {
    int64_t owner;
    char *path;
};

/* Returns whether only root can have created a file at this path: an entry of /, a path below /etc
 * or /usr, or one of the directories in `known`. un_owner_is_trusted() calls this function if a
 * file belongs to the overflow uid, which does not tell root from other users. */
static bool is_of_root(const char *path)
{
    static const char *const known[] = {
        "/run/lock", "/run/user", "/var/cache", "/var/lib",
        "/var/lock", "/var/log",  "/var/run",   "/var/tmp",
    };
    if (!strchr(path + 1, '/') || !strncmp(path, "/etc/", 5) || !strncmp(path, "/usr/", 5))
        return true;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(path, known[i]))
            return true;
    return false;
}

/*
 * Returns whether symbolic links that the user `uid` owns are followed. This is true for links of
 * the caller, of root, and of the owner of /. `path` is the link's path with all other symbolic
 * links resolved.
 *
 * In a user namespace that does not map root, root's files appear to belong to the overflow uid, as
 * do the files of all other unmapped users (user_namespaces(7)). Then a link counts as root's only
 * if no other user can have created a file at its path.
 */
bool un_owner_is_trusted(uid_t uid, const char *path)
{
    struct stat root;
    if (uid == 0 || uid == geteuid())
        return true;
    if (stat("/", &root) || uid != root.st_uid)
        return false;
    int64_t overflow = un_proc_number("/proc", "sys/kernel/overflowuid");
    return (overflow >= 0 && (int64_t)uid != overflow) || is_of_root(path);
}

/* Returns whether /etc/group lists members of a group. Users with this primary group are not
 * necessarily listed there (group(5)). */
static bool has_members(gid_t gid)
{
    char line[UN_LINE_MAX];
    bool cut;
    un_auto_lines struct un_lines lines;
    un_lines_open(&lines, "/etc/group");
    while (un_lines_next(&lines, line, &cut)) {
        unsigned long found;
        int length = 0;
        const char *password = strchr(line, ':');
        const char *number = password ? strchr(password + 1, ':') : NULL;
        if (number && sscanf(number, ":%lu:%n", &found, &length) == 1 && found == gid && length &&
            number[length])
            return true;
    }
    return false;
}

/* Returns whether a group contains only the caller and root. Users who share a primary group are
 * not necessarily listed as members of the group, so the gid must also equal the uid, as for a
 * group that was created together with its user (pam_umask(8), usergroups). */
bool un_group_is_private(gid_t gid)
{
    return gid == 0 || (gid == getegid() && gid == geteuid() && !has_members(gid));
}

/* Returns whether the access control list of a file grants write permission to a named user or
 * group (acl(5)), or whether the list can't be read. */
static bool acl_grants_write(int fd)
{
    struct {
        struct posix_acl_xattr_header header;
        struct posix_acl_xattr_entry entry[ACL_ENTRIES_MAX];
    } list;
    char path[UN_FD_PATH_MAX];
    /* Use the path in /proc, because fgetxattr(2) fails for an O_PATH descriptor. */
    ssize_t size = getxattr(un_fd_path(fd, path), "system.posix_acl_access", &list, sizeof list);
    if (size < 0)
        return errno != ENODATA && errno != EOPNOTSUPP;
    for (size_t i = 0; sizeof list.header + (i + 1) * sizeof *list.entry <= (size_t)size; i++) {
        int tag = le16toh(list.entry[i].e_tag), permissions = le16toh(list.entry[i].e_perm);
        if ((tag == ACL_USER || tag == ACL_GROUP) && permissions & ACL_WRITE)
            return true;
    }
    return false;
}

/* Checks the access control list only if the group has write permission, because the group bits of
 * a directory with such a list are the mask that limits all its named users and groups (acl(5)). */
bool un_others_may_write(int directory)
{
    struct stat status;
    if (fstat(directory, &status) || status.st_mode & S_IWOTH)
        return true;
    return status.st_mode & S_IWGRP &&
           (!un_group_is_private(status.st_gid) || acl_grants_write(directory));
}

/* Returns whether a symbolic link belongs to the filesystem that is mounted at /proc. */
static bool is_in_proc(const struct stat *link)
{
    struct stat self;
    return !lstat("/proc/self", &self) && link->st_dev == self.st_dev;
}

static enum un_lookup lookup_link(const struct un_trail *trail, const char *name,
                                  struct un_entry *found, const struct stat *status,
                                  struct foreign *foreign)
{
    int link = found->fd;
    int failed = 0;
    found->fd = -1;
    if (is_in_proc(status)) {
        /* Let the kernel follow a magic link (symlink(7)), such as /proc/self/fd/N for the shell's
         * <(COMMAND), because its target may have no path. */
        close(link);
        found->fd = openat(trail->place[trail->count - 1].fd, name, O_PATH | O_CLOEXEC);
        return found->fd < 0 ? UN_LOOKUP_FAILED : UN_LOOKUP_FILE;
    }
    if (foreign && !un_owner_is_trusted(status->st_uid, trail->path)) {
        foreign->owner = status->st_uid;
        snprintf(foreign->path, UN_PATH_MAX, "%s", trail->path);
        errno = EACCES;
        failed = -1;
    }
    if (!failed)
        failed = un_read_link(link, "", found->link);
    un_close_quietly(link);
    return failed ? UN_LOOKUP_FAILED : UN_LOOKUP_LINK;
}

/* Looks up a name for un_walk(), and fails with EACCES for a symbolic link whose owner is not
 * trusted. `arg` points to a struct foreign that receives the owner and the path of that link, or
 * is NULL to follow the links of all owners. */
static enum un_lookup lookup_trusted(const struct un_trail *trail, const char *name,
                                     struct un_entry *found, void *arg)
{
    struct stat status;
    found->is_ours = true;
    found->fd = un_child(trail->place[trail->count - 1].fd, name);
    if (found->fd < 0)
        return errno == ENOENT ? UN_LOOKUP_MISSING : UN_LOOKUP_FAILED;
    if (fstat(found->fd, &status)) {
        un_close_quietly(found->fd);
        return UN_LOOKUP_FAILED;
    }
    return S_ISLNK(status.st_mode) ? lookup_link(trail, name, found, &status, arg) : UN_LOOKUP_FILE;
}

enum un_lookup un_lookup_any_link(const struct un_trail *trail, const char *name,
                                  struct un_entry *found, void *arg)
{
    (void)arg;
    return lookup_trusted(trail, name, found, NULL);
}

static enum un_lookup lookup_no_links(const struct un_trail *trail, const char *name,
                                      struct un_entry *found, void *arg)
{
    (void)arg;
    found->is_ours = true;
    found->fd = un_child(trail->place[trail->count - 1].fd, name);
    return found->fd < 0 ? UN_LOOKUP_FAILED : UN_LOOKUP_FILE;
}

/* Duplicates a descriptor to a number above 2, and closes the original. open(2) may have returned a
 * number from 0 to 2, because the caller has closed standard input, output or error. */
static int move_above_stdio(int fd)
{
    int taken = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    un_close_quietly(fd);
    return taken;
}

/* Resolves a path, and returns a descriptor of the resolved file, or -1 with errno set. */
static int walk_to(const char *path, un_lookup_function *lookup, void *arg)
{
    un_auto_close int root = un_child(AT_FDCWD, "/");
    if (root < 0)
        return -1;
    un_auto_trail struct un_trail trail;
    un_trail_begin(&trail, root);
    if (un_walk(&trail, path, lookup, arg))
        return -1;
    errno = ENOENT;
    return *trail.missing ? -1 : fcntl(un_trail_last(&trail)->fd, F_DUPFD_CLOEXEC, 3);
}

/* Reads the path of the open file `fd` into `real`. Returns `fd`. On failure, closes `fd`, and
 * returns -1 with errno set: ENOENT if the file was deleted. */
static int named(int fd, char real[UN_PATH_MAX])
{
    struct stat status;
    if (fd < 0)
        return -1;
    int failed = un_path_of(fd, real) || fstat(fd, &status);
    if (!failed && status.st_nlink)
        return fd;
    if (!failed)
        errno = ENOENT;
    un_close_quietly(fd);
    return -1;
}

int un_open_follow(const char *path, char real[UN_PATH_MAX], int64_t *foreign)
{
    struct foreign link = {.owner = -1, .path = real};
    int fd = named(walk_to(path, lookup_trusted, &link), real);
    *foreign = link.owner;
    return fd;
}

int un_open_own(const char *path, char real[UN_PATH_MAX])
{
    return named(move_above_stdio(openat(AT_FDCWD, path, O_PATH | O_CLOEXEC)), real);
}

int un_open_exact(const char *path, char real[UN_PATH_MAX])
{
    int fd = named(walk_to(path, lookup_no_links, NULL), real);
    struct stat status;
    if (fd >= 0 && !fstat(fd, &status) && S_ISLNK(status.st_mode)) {
        close(fd);
        errno = ELOOP;
        return -1;
    }
    return fd;
}

int un_open_here(int fd, const char *path)
{
    struct stat before, now;
    int again = walk_to(path, lookup_no_links, NULL);
    if (again < 0)
        return -1;
    if (fstat(fd, &before) || fstat(again, &now) || before.st_dev != now.st_dev ||
        before.st_ino != now.st_ino) {
        close(again);
        errno = ESTALE;
        return -1;
    }
    return again;
}
