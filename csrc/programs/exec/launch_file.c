/* Reading the launch file. The file decides which files of the host a sandbox sees, so only trusted
 * users may be able to write to the file. */
#include "base/base.h"
#include "launch/launch.h"
#include "programs/exec/exec.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <sys/stat.h>

static int fail_launch_file(const char *file, const char *cause, const char *what,
                            struct un_error *err)
{
    return un_fail(err, UN_STEP_LAUNCH, 0, cause, "%.300s: %s", file, what);
}

/* Sets `err` for the launch file that could not be opened (errno). Returns -1. */
static int fail_opening_launch(const char *file, struct un_error *err)
{
    un_fail_errno(err, UN_STEP_LAUNCH, file);
    /* Report a missing /proc, without which un_open_follow() and un_reopen() fail with ENOENT for
     * any file. */
    un_blame_missing_proc(err);
    if (err->cause)
        return -1;
    if (err->errnum == ENOENT)
        strcpy(err->remedy, "usernsctl freeze -o FILE -- CMD    # in a container, a volume may "
                            "hide the launch of the image");
    else if (err->errnum == EACCES)
        strcpy(err->remedy, "namei -l FILE    # prints owners and modes; use a file that this user "
                            "may read");
    return -1;
}

/* Opens the launch file with O_PATH, and stores in `real` its path with symbolic links resolved.
 * Returns a descriptor, or -1 with the error in `err`. */
static int open_launch_file(const char *file, char real[UN_PATH_MAX], struct un_error *err)
{
    char path[2 * UN_PATH_MAX];
    char here[UN_PATH_MAX] = "";
    int64_t foreign = -1;
    if (!*file)
        return un_fail(err, UN_STEP_LAUNCH, 0, "usage", "--launch: no file was named");
    if (*file != '/' && !getcwd(here, sizeof here))
        return un_fail_errno(err, UN_STEP_LAUNCH, file);
    snprintf(path, sizeof path, "%s%s%s", here, *file == '/' ? "" : "/", file);
    int fd = un_open_follow(path, real, &foreign);
    if (fd >= 0)
        return fd;
    if (foreign < 0)
        return fail_opening_launch(file, err);
    return un_fail(err, UN_STEP_LAUNCH, 0, "foreign-link",
                   "%.200s: the symbolic link %.200s belongs to uid %" PRId64
                   ", who may change where it leads",
                   file, real, foreign);
}

/* A directory that is a component of the launch file's path, and in which an untrusted user could
 * have replaced an entry. */
struct gap {
    char path[UN_PATH_MAX]; /* path of the directory, or "" if there is no such directory */
    struct stat status;
};

static enum un_lookup lookup_checking_owner(const struct un_trail *trail, const char *name,
                                            struct un_entry *found, void *arg)
{
    struct gap *gap = arg;
    struct stat entry;
    const struct un_place *parent = &trail->place[trail->count - 1];
    snprintf(gap->path, sizeof gap->path, "%.*s", parent->length ? (int)parent->length : 1,
             parent->length ? trail->path : "/");
    found->fd = un_child(parent->fd, name);
    found->is_ours = true;
    if (found->fd < 0 || fstat(parent->fd, &gap->status) || fstat(found->fd, &entry)) {
        un_close_quietly(found->fd);
        return UN_LOOKUP_FAILED;
    }
    /* Accept an entry that a trusted user owns in a sticky directory: apart from root, only the
     * owners of the entry and of the directory can replace it. */
    bool is_kept = gap->status.st_mode & S_ISVTX && un_owner_is_trusted(entry.st_uid, trail->path);
    if (un_owner_is_trusted(gap->status.st_uid, gap->path) &&
        (is_kept || !un_others_may_write(parent->fd))) {
        gap->path[0] = '\0';
        return UN_LOOKUP_FILE;
    }
    close(found->fd);
    errno = EPERM;
    return UN_LOOKUP_FAILED;
}

/* Fails if an untrusted user could have replaced the launch file or one of its parent directories.
 * `real` is the path with symbolic links resolved. Returns 0, or -1 with the error in `err`. */
static int check_way(const char *file, const char *real, struct un_error *err)
{
    struct gap gap = {.path = ""};
    un_auto_close int root = un_child(AT_FDCWD, "/");
    if (root < 0)
        return un_fail_errno(err, UN_STEP_LAUNCH, file);
    un_auto_trail struct un_trail trail;
    un_trail_begin(&trail, root);
    int failed = un_walk(&trail, real, lookup_checking_owner, &gap);
    if (failed && errno != EPERM)
        un_fail_errno(err, UN_STEP_LAUNCH, file);
    else if (failed)
        un_fail(err, UN_STEP_LAUNCH, 0, "launch-untrusted",
                "%.200s lies in %.200s, where others may replace it (uid %u, mode %o)", file,
                gap.path, gap.status.st_uid, (unsigned)gap.status.st_mode & 07777);
    return failed;
}

static int check_launch_file(const char *file, const char *real, const struct stat *status,
                             struct un_error *err)
{
    if (!S_ISREG(status->st_mode))
        return fail_launch_file(file, "launch-malformed", "not a regular file", err);
    if (!un_owner_is_trusted(status->st_uid, real))
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-untrusted",
                       "%.300s belongs to uid %u, who is neither root nor you", file,
                       status->st_uid);
    if (status->st_mode & 022)
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-untrusted",
                       "%.300s can be written to by others (mode %o)", file,
                       (unsigned)status->st_mode & 07777);
    if (status->st_size > UN_LAUNCH_MAX)
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed",
                       "%.300s has %jd bytes; a launch may have %d", file,
                       (intmax_t)status->st_size, UN_LAUNCH_MAX);
    return check_way(file, real, err);
}

static int read_checked(const char *file, int fd, const struct stat *status, char **bytes,
                        size_t *size, struct un_error *err)
{
    un_auto_close int opened = un_reopen(fd, O_RDONLY);
    if (opened < 0)
        return fail_opening_launch(file, err);
    *bytes = malloc((size_t)status->st_size + 1);
    ssize_t length = *bytes ? un_read_all(opened, *bytes, (size_t)status->st_size) : -1;
    int failed = length < 0 ? un_fail_errno(err, UN_STEP_LAUNCH, file) : 0;
    *size = (size_t)length;
    return failed;
}

static int open_and_read(const char *file, struct un_launch_file *of, size_t *size,
                         struct un_error *err)
{
    char real[UN_PATH_MAX];
    struct stat status;
    of->fd = open_launch_file(file, real, err);
    if (of->fd < 0)
        return -1;
    int failed = fstat(of->fd, &status) ? un_fail_errno(err, UN_STEP_LAUNCH, file)
                                        : check_launch_file(file, real, &status, err);
    return failed ? -1 : read_checked(file, of->fd, &status, &of->bytes, size, err);
}

int un_launch_file_read(const char *file, struct un_launch_file *of, struct un_launch **launch,
                        struct un_error *err)
{
    size_t size;
    of->bytes = NULL;
    *launch = NULL;
    if (open_and_read(file, of, &size, err))
        return -1;
    if (!un_launch_parse(of->bytes, size, launch, err))
        return 0;
    return un_launch_file_name(file, err);
}

int un_launch_file_name(const char *file, struct un_error *err)
{
    char detail[UN_DETAIL_MAX];
    strcpy(detail, err->detail);
    return un_fail(err, (enum un_step)err->step, err->errnum, err->cause, "%.200s: %.300s", file,
                   detail);
}

void un_launch_file_close(struct un_launch_file *of)
{
    if (of->fd >= 0)
        close(of->fd);
    free(of->bytes);
}
