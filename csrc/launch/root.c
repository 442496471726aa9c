/* The root filesystem of a sandbox: creating and mounting its files. */
#include "base/base.h"
#include "launch/launch.h"

int un_root_status(struct un_launch *launch, int fd, const char *name, struct stat *status,
                   struct un_error *err)
{
    return fstat(fd, status) ? un_launch_fail_file(launch, name, err) : 0;
}

int un_root_set_mode(struct un_launch *launch, int fd, mode_t mode, const char *name,
                     struct un_error *err)
{
    char path[UN_FD_PATH_MAX];
    return chmod(un_fd_path(fd, path), mode & 07777) ? un_launch_fail_file(launch, name, err) : 0;
}

int un_root_make(struct un_launch *launch, int parent, const char *name, bool is_directory,
                 struct un_error *err)
{
    int created;
    if (is_directory) {
        created = mkdirat(parent, name, 0755);
    } else {
        created = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        un_close_quietly(created);
    }
    int fd = created < 0 ? -1 : un_child(parent, name);
    return fd < 0 ? un_launch_fail_file(launch, name, err) : fd;
}

int un_root_new(struct un_launch *launch, int directory, bool is_directory, char name[16],
                struct un_error *err)
{
    char own[16];
    snprintf(own, sizeof own, "%u", ++launch->root.count);
    if (name)
        strcpy(name, own);
    return un_root_make(launch, directory, own, is_directory, err);
}

static int make_private(struct un_launch *launch, const char *name, mode_t mode, int *fd,
                        struct un_error *err)
{
    if (mkdirat(launch->root.scratch, name, mode))
        return un_launch_fail_file(launch, name, err);
    *fd = un_child(launch->root.scratch, name);
    return *fd < 0 ? un_launch_fail_file(launch, name, err) : 0;
}

int un_root_begin(struct un_launch *launch, struct un_error *err)
{
    struct un_root *root = &launch->root;
    int *top = &launch->view.top;
    struct stat status;
    if (make_private(launch, "spare", 0700, &root->spare, err) ||
        make_private(launch, "shown", 0700, &root->shown, err) ||
        make_private(launch, "root", 0755, top, err))
        return -1;
    /* Bind-mounts the directory on itself: only a mount can be made read-only later, with all
     * mounts below it. */
    if (un_bind(*top, *top, 0, "root", err))
        return -1;
    close(*top);
    *top = un_child(root->scratch, "root");
    if (*top < 0)
        return un_launch_fail_file(launch, "root", err);
    if (un_root_status(launch, *top, "root", &status, err))
        return -1;
    root->device = status.st_dev;
    return 0;
}

int un_root_copy_link(struct un_launch *launch, int link, int directory, const char *name,
                      struct un_error *err)
{
    char text[UN_PATH_MAX];
    if (un_read_link(link, text) || symlinkat(text, directory, name))
        return un_launch_fail_file(launch, name, err);
    return 0;
}

int un_root_show(struct un_launch *launch, int source, int directory, uint64_t attributes,
                 char name[16], struct un_error *err)
{
    char own[16];
    struct stat status;
    if (un_root_status(launch, source, "", &status, err))
        return -1;
    un_auto_close int place = un_root_new(launch, directory, S_ISDIR(status.st_mode), own, err);
    if (place < 0)
        return -1;
    if (un_bind(source, place, attributes, own, err))
        return -1;
    if (name)
        strcpy(name, own);
    int seen = un_child(directory, own);
    return seen < 0 ? un_launch_fail_file(launch, own, err) : seen;
}

int un_root_hide(struct un_launch *launch, int file, const char *name, struct un_error *err)
{
    struct stat status;
    if (un_root_status(launch, file, name, &status, err))
        return -1;
    un_auto_close int empty =
        un_root_new(launch, launch->root.spare, S_ISDIR(status.st_mode), NULL, err);
    if (empty < 0)
        return -1;
    return un_bind(empty, file, UN_ATTR_HARMLESS | UN_ATTR_RDONLY, name, err);
}

DIR *un_root_list(struct un_launch *launch, int directory, const char *name, struct un_error *err)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (listing)
        return listing;
    un_close_quietly(fd);
    un_launch_fail_file(launch, name, err);
    return NULL;
}

const struct dirent *un_root_next(struct un_launch *launch, DIR *listing, const char *name,
                                  int *failed, struct un_error *err)
{
    const struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(listing);
    } while (entry && (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")));
    if (!entry && errno)
        *failed = un_launch_fail_file(launch, name, err);
    return entry;
}

static int mirror_entry(struct un_launch *launch, int found, int target, const char *name,
                        struct un_error *err)
{
    struct stat status;
    if (un_root_status(launch, found, name, &status, err))
        return -1;
    if (S_ISLNK(status.st_mode))
        return un_root_copy_link(launch, found, target, name, err);
    un_auto_close int created = un_root_make(launch, target, name, S_ISDIR(status.st_mode), err);
    if (created < 0)
        return -1;
    return un_bind(found, created, 0, name, err);
}

static bool is_among(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (!strcmp(name, *names))
            return true;
    return false;
}

int un_root_mirror(struct un_launch *launch, int source, int target, const char *const *without,
                   struct un_error *err)
{
    int failed = 0;
    const struct dirent *entry;
    DIR *listing = un_root_list(launch, source, "", err);
    if (!listing)
        return -1;
    while (!failed && (entry = un_root_next(launch, listing, "", &failed, err))) {
        if (is_among(entry->d_name, without))
            continue;
        int found = un_child(source, entry->d_name);
        if (found < 0 && errno == ENOENT)
            continue; /* the entry was deleted meanwhile */
        failed = found < 0 ? un_launch_fail_file(launch, entry->d_name, err)
                           : mirror_entry(launch, found, target, entry->d_name, err);
        un_close_quietly(found);
    }
    closedir(listing);
    return failed;
}
