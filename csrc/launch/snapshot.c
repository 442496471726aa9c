/*
 * Copying the public files, those that every user may read, of a directory of the host.
 *
 * If the caller is root, runsc could read all files in a bind-mounted directory. A mount could
 * cover a private file such as /etc/shadow, but not a new file that later replaces it. So the
 * sandbox of root receives copies of those files that every user may read.
 */
#include "base/base.h"
#include "launch/launch.h"

#include <sys/sendfile.h>

/* Maximum size of a copied file in bytes. Larger files are bind-mounted. A bind mount serves as
 * well as a copy: it still shows the old file after the host has replaced the file by a new one. */
#define FILE_BYTES_MAX (1 << 20)
/* Maximum total size of all copies in bytes. When the maximum is reached, the remaining files are
 * bind-mounted. */
#define TOTAL_BYTES_MAX (32 << 20)

struct snapshot {
    int target; /* the directory in which entries are created */
    off_t left; /* number of bytes that may still be copied */
};

/* Copies the contents of a file if every user may read it. Returns the number of bytes copied, or
 * -1 with errno set. */
static off_t copy_bytes(int source, int out)
{
    struct stat status;
    off_t copied = 0;
    ssize_t count = 1;
    un_auto_close int file = un_reopen(source, O_RDONLY);
    if (file < 0)
        return -1;
    int failed = fstat(file, &status);
    /* Check the mode and the size of the open file, because they may have changed since the entry
     * was visited. */
    while (!failed && un_is_public(status.st_mode) && copied < status.st_size &&
           copied < FILE_BYTES_MAX && count) {
        count = sendfile(out, file, NULL, FILE_BYTES_MAX);
        failed = count < 0;
        copied += count;
    }
    return failed ? -1 : copied;
}

static int bind_file(struct un_launch *launch, int source, int directory, const char *name,
                     struct un_error *err)
{
    un_auto_close int place = un_child(directory, name);
    if (place < 0)
        return un_launch_fail_file(launch, name, err);
    return un_bind(source, place, UN_ATTR_RDONLY | UN_ATTR_HARMLESS, name, err);
}

static int copy_file(struct un_launch *launch, struct snapshot *snapshot, int source,
                     const struct stat *status, const char *name, struct un_error *err)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    un_auto_close int out = openat(snapshot->target, name, flags, 0600);
    if (out < 0)
        return un_launch_fail_file(launch, name, err);
    bool is_public = un_is_public(status->st_mode);
    bool is_small = status->st_size <= FILE_BYTES_MAX && status->st_size <= snapshot->left;
    if (is_public && !is_small)
        return bind_file(launch, source, snapshot->target, name, err);
    off_t copied = is_public ? copy_bytes(source, out) : 0;
    if (copied < 0 || fchmod(out, status->st_mode & 07777))
        return un_launch_fail_file(launch, name, err);
    snapshot->left -= copied;
    return 0;
}

static int copy_directory(struct un_visit *visit, struct un_launch *launch, int source,
                          const struct stat *status, const char *name, struct un_error *err)
{
    struct snapshot *snapshot = visit->arg;
    int failed = 0, target = snapshot->target;
    un_auto_close int created = un_root_make_directory(launch, target, name, 0700, err);
    if (created < 0)
        return -1;
    snapshot->target = created;
    if (un_is_public(status->st_mode))
        failed = un_root_visit(visit, launch, source, name, err);
    snapshot->target = target;
    return failed ? -1 : un_root_set_mode(launch, created, status->st_mode, name, err);
}

/* Copies a symbolic link without opening it, which saves time, because most entries of /etc are
 * symbolic links. Returns 0 if a link was copied, 1 if readdir(3) does not report a symbolic link
 * or the link can't be read, or -1 with errno set. */
static int copy_link(const struct un_visit *visit, int source, const struct dirent *entry)
{
    const struct snapshot *snapshot = visit->arg;
    char text[UN_PATH_MAX];
    if (entry->d_type != DT_LNK || un_read_link(source, entry->d_name, text))
        return 1;
    return symlinkat(text, snapshot->target, entry->d_name);
}

static int copy_entry(struct un_visit *visit, struct un_launch *launch, int found,
                      const struct stat *status, const char *name, struct un_error *err)
{
    struct snapshot *snapshot = visit->arg;
    if (S_ISLNK(status->st_mode))
        return un_root_copy_link(launch, found, snapshot->target, name, err);
    if (S_ISDIR(status->st_mode))
        return copy_directory(visit, launch, found, status, name, err);
    if (S_ISREG(status->st_mode))
        return copy_file(launch, snapshot, found, status, name, err);
    return 0;
}

int un_snapshot(struct un_launch *launch, int source, int target, struct un_error *err)
{
    struct snapshot snapshot = {.target = target, .left = TOTAL_BYTES_MAX};
    struct un_visit visit = {.wants = copy_link, .take = copy_entry, .arg = &snapshot};
    return un_root_visit(&visit, launch, source, "", err);
}
