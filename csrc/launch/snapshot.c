/*
 * Copying a directory.
 *
 * As root, runsc could read all files in a bind-mounted directory, including files that are created
 * or replaced later: a new /etc/shadow is a new file, which no mount covers. So a directory with
 * private files is shown as a copy of its publicly readable files.
 */
#include "base/base.h"
#include "launch/launch.h"

#include <sys/sendfile.h>

/* Larger files are bind-mounted, not copied. A bind mount shows the file itself: a file that
 * replaces it later is not visible. */
#define FILE_BYTES_MAX (1 << 20)
/* Maximum total size of the copies; further files are bind-mounted. */
#define TOTAL_BYTES_MAX (32 << 20)

struct snapshot {
    struct un_launch *launch;
    off_t left;
    int depth;
};

/* Copies a file if its mode lets every user read it. Returns the number of bytes copied, or -1 with
 * errno. */
static off_t copy_bytes(int source, int out)
{
    struct stat status;
    off_t copied = 0;
    ssize_t count = 1;
    un_auto_close int file = un_reopen(source, O_RDONLY);
    if (file < 0)
        return -1;
    int failed = fstat(file, &status);
    /* Checked again after opening: the mode and the size may have changed. */
    while (!failed && un_is_public(status.st_mode) && copied < status.st_size &&
           copied < FILE_BYTES_MAX && count) {
        count = sendfile(out, file, NULL, FILE_BYTES_MAX);
        failed = count < 0;
        copied += count;
    }
    return failed ? -1 : copied;
}

static int bind_file(struct snapshot *snapshot, int source, int directory, const char *name,
                     struct un_error *err)
{
    un_auto_close int place = un_child(directory, name);
    if (place < 0)
        return un_launch_fail_file(snapshot->launch, name, err);
    return un_bind(source, place, UN_ATTR_RDONLY | UN_ATTR_HARMLESS, name, err);
}

static int copy_content(struct snapshot *snapshot, int source, int out, const char *name,
                        struct un_error *err)
{
    off_t copied = copy_bytes(source, out);
    if (copied < 0)
        return un_launch_fail_file(snapshot->launch, name, err);
    snapshot->left -= copied;
    return 0;
}

static int copy_file(struct snapshot *snapshot, int source, const struct stat *status,
                     int directory, const char *name, struct un_error *err)
{
    un_auto_close int out = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0)
        return un_launch_fail_file(snapshot->launch, name, err);
    bool is_public = un_is_public(status->st_mode);
    bool is_small = status->st_size <= FILE_BYTES_MAX && status->st_size <= snapshot->left;
    if (is_public && !is_small)
        return bind_file(snapshot, source, directory, name, err);
    if (is_public && copy_content(snapshot, source, out, name, err))
        return -1;
    return fchmod(out, status->st_mode & 07777) ? un_launch_fail_file(snapshot->launch, name, err)
                                                : 0;
}

static int copy(struct snapshot *snapshot, int source, int target, const char *name,
                struct un_error *err);

static int copy_directory(struct snapshot *snapshot, int source, const struct stat *status,
                          int directory, const char *name, struct un_error *err)
{
    struct un_launch *launch = snapshot->launch;
    if (mkdirat(directory, name, 0700))
        return un_launch_fail_file(launch, name, err);
    un_auto_close int created = un_child(directory, name);
    if (created < 0)
        return un_launch_fail_file(launch, name, err);
    if (un_is_public(status->st_mode) && copy(snapshot, source, created, name, err))
        return -1;
    return un_root_set_mode(launch, created, status->st_mode, name, err);
}

/* Copies a symbolic link without opening it, since most entries of /etc are links. Returns false if
 * the entry is no longer a link, or can't be read. */
static bool copy_link(struct snapshot *snapshot, int source, int target, const char *name,
                      int *failed, struct un_error *err)
{
    char text[UN_PATH_MAX];
    ssize_t length = readlinkat(source, name, text, sizeof text);
    if (length < 0 || length == sizeof text)
        return false;
    text[length] = '\0';
    *failed = symlinkat(text, target, name);
    if (*failed)
        un_launch_fail_file(snapshot->launch, name, err);
    return true;
}

static int copy_entry(struct snapshot *snapshot, int found, int target, const char *name,
                      struct un_error *err)
{
    struct stat status;
    if (un_root_status(snapshot->launch, found, name, &status, err))
        return -1;
    if (S_ISLNK(status.st_mode))
        return un_root_copy_link(snapshot->launch, found, target, name, err);
    if (S_ISDIR(status.st_mode))
        return copy_directory(snapshot, found, &status, target, name, err);
    if (S_ISREG(status.st_mode))
        return copy_file(snapshot, found, &status, target, name, err);
    return 0;
}

static int copy_all(struct snapshot *snapshot, DIR *listing, int source, int target,
                    const char *name, struct un_error *err)
{
    int failed = 0;
    const struct dirent *entry;
    while (!failed && (entry = un_root_next(snapshot->launch, listing, name, &failed, err))) {
        if (entry->d_type == DT_LNK &&
            copy_link(snapshot, source, target, entry->d_name, &failed, err))
            continue;
        int found = un_child(source, entry->d_name);
        if (found < 0 && errno == ENOENT)
            continue; /* the entry was deleted meanwhile */
        failed = found < 0 ? un_launch_fail_file(snapshot->launch, entry->d_name, err)
                           : copy_entry(snapshot, found, target, entry->d_name, err);
        un_close_quietly(found);
    }
    return failed;
}

static int copy(struct snapshot *snapshot, int source, int target, const char *name,
                struct un_error *err)
{
    if (snapshot->depth == UN_DEPTH_MAX) {
        errno = ELOOP;
        return un_launch_fail_file(snapshot->launch, name, err);
    }
    DIR *listing = un_root_list(snapshot->launch, source, name, err);
    if (!listing)
        return -1;
    snapshot->depth++;
    int failed = copy_all(snapshot, listing, source, target, name, err);
    snapshot->depth--;
    closedir(listing);
    return failed;
}

int un_snapshot(struct un_launch *launch, int source, int target, struct un_error *err)
{
    struct snapshot snapshot = {.launch = launch, .left = TOTAL_BYTES_MAX};
    return copy(&snapshot, source, target, "", err);
}
