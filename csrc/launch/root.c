/* Creating and mounting files in the root filesystem of a sandbox. */
#include "base/base.h"
#include "launch/launch.h"

/* Maximum number of nested calls of un_root_visit(), that is, the maximum depth of the visited
 * tree. */
#define DEPTH_MAX 128

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

/* Returns an O_PATH descriptor of the entry `name`, which was just created in `parent`. If `failed`
 * is set, the creation has failed, and this function returns -1 with the error in `err`. */
static int open_created(struct un_launch *launch, int failed, int parent, const char *name,
                        struct un_error *err)
{
    int fd = failed ? -1 : un_child(parent, name);
    return fd < 0 ? un_launch_fail_file(launch, name, err) : fd;
}

int un_root_make_directory(struct un_launch *launch, int parent, const char *name, mode_t mode,
                           struct un_error *err)
{
    return open_created(launch, mkdirat(parent, name, mode), parent, name, err);
}

int un_root_make(struct un_launch *launch, int parent, const char *name, bool is_directory,
                 struct un_error *err)
{
    if (is_directory)
        return un_root_make_directory(launch, parent, name, 0755, err);
    int created = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    un_close_quietly(created);
    return open_created(launch, created < 0, parent, name, err);
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

int un_root_begin(struct un_launch *launch, struct un_error *err)
{
    struct un_root *root = &launch->root;
    int *top = &launch->view.top;
    struct stat status;
    root->spare = un_root_make_directory(launch, root->scratch, "spare", 0700, err);
    if (root->spare >= 0)
        root->shown = un_root_make_directory(launch, root->scratch, "shown", 0700, err);
    if (root->shown >= 0)
        *top = un_root_make_directory(launch, root->scratch, "root", 0755, err);
    if (*top < 0)
        return -1;
    /* Bind-mount the directory on itself, because mount_setattr(2) can later make only a mount
     * read-only, not a plain directory. */
    if (un_bind(*top, *top, 0, "the root filesystem", err))
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
    if (un_read_link(link, "", text) || symlinkat(text, directory, name))
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

static DIR *open_listing(int directory)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (!listing)
        un_close_quietly(fd);
    return listing;
}

/* Returns the next entry other than "." and "..". Returns NULL with errno 0 after the last entry,
 * or with another errno after a failure. */
static const struct dirent *next_entry(DIR *listing)
{
    const struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(listing);
    } while (entry && (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")));
    return entry;
}

static int visit_entry(struct un_visit *visit, struct un_launch *launch, int directory,
                       const struct dirent *entry, struct un_error *err)
{
    struct stat status;
    int wanted = visit->wants(visit, directory, entry);
    if (!wanted)
        return 0;
    un_auto_close int found = wanted > 0 ? un_child(directory, entry->d_name) : -1;
    if (found >= 0 && !fstat(found, &status))
        return visit->take(visit, launch, found, &status, entry->d_name, err);
    /* Skip an entry that was removed after it was listed. */
    return errno == ENOENT ? 0 : un_launch_fail_file(launch, entry->d_name, err);
}

int un_root_visit(struct un_visit *visit, struct un_launch *launch, int directory, const char *name,
                  struct un_error *err)
{
    const struct dirent *entry;
    int failed = 0;
    errno = ELOOP;
    DIR *listing = visit->depth == DEPTH_MAX ? NULL : open_listing(directory);
    if (!listing)
        return un_launch_fail_file(launch, name, err);
    visit->depth++;
    while (!failed && (entry = next_entry(listing)))
        failed = visit_entry(visit, launch, directory, entry, err);
    if (!failed && errno)
        failed = un_launch_fail_file(launch, name, err);
    visit->depth--;
    closedir(listing);
    return failed;
}

/* The directory into which un_root_mirror() mirrors entries, and the names of the entries that it
 * omits. */
struct mirror {
    int target;
    const char *const *without;
};

static int is_mirrored(const struct un_visit *visit, int directory, const struct dirent *entry)
{
    const struct mirror *mirror = visit->arg;
    (void)directory;
    for (const char *const *name = mirror->without; *name; name++)
        if (!strcmp(entry->d_name, *name))
            return 0;
    return 1;
}

static int mirror_entry(struct un_visit *visit, struct un_launch *launch, int found,
                        const struct stat *status, const char *name, struct un_error *err)
{
    int target = ((const struct mirror *)visit->arg)->target;
    if (S_ISLNK(status->st_mode))
        return un_root_copy_link(launch, found, target, name, err);
    un_auto_close int created = un_root_make(launch, target, name, S_ISDIR(status->st_mode), err);
    if (created < 0)
        return -1;
    return un_bind(found, created, 0, name, err);
}

int un_root_mirror(struct un_launch *launch, int source, int target, const char *const *without,
                   struct un_error *err)
{
    struct mirror mirror = {target, without};
    struct un_visit visit = {.wants = is_mirrored, .take = mirror_entry, .arg = &mirror};
    return un_root_visit(&visit, launch, source, "", err);
}
