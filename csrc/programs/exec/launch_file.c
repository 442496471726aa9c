/* A launch decides what of this machine a sandbox sees: who can write it decides that. */
#include "programs/exec/launch_file.h"
#include "base/error.h"
#include "launch/follow.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const char *file, const char *cause, const char *what, struct un_error *err)
{
    return un_fail(err, UN_STEP_LAUNCH, 0, cause, "%.300s: %s", file, what);
}

/* Opens it, and tells the path that it has: a descriptor that is good for looking only, or -1. */
static int find(const char *file, char real[UN_PATH_MAX], struct un_error *err)
{
    char path[2 * UN_PATH_MAX];
    char here[UN_PATH_MAX] = "";
    int64_t foreign = -1;
    if (*file != '/' && !getcwd(here, sizeof here))
        return un_fail_errno(err, UN_STEP_LAUNCH, file);
    snprintf(path, sizeof path, "%s%s%s", here, *file == '/' ? "" : "/", file);
    int fd = un_open_follow(path, real, &foreign);
    if (fd >= 0)
        return fd;
    if (foreign < 0)
        return un_fail_errno(err, UN_STEP_LAUNCH, file);
    return un_fail(err, UN_STEP_LAUNCH, EACCES, "foreign-link",
                   "%.200s: the symbolic link %.200s belongs to uid %" PRId64
                   ", who may change where it leads",
                   file, real, foreign);
}

static int check(const char *file, const char *real, const struct stat *status,
                 struct un_error *err)
{
    if (!S_ISREG(status->st_mode))
        return fail(file, "launch-malformed", "it is not a regular file", err);
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
    return 0;
}

/* Reads all of it: how many bytes that was, or -1 with errno. */
static ssize_t read_all(int fd, char *bytes, size_t size)
{
    size_t length = 0;
    ssize_t got = 1;
    while (got > 0 && length < size) {
        got = read(fd, bytes + length, size - length);
        if (got < 0)
            return -1;
        length += (size_t)got;
    }
    return (ssize_t)length;
}

/* Opens for reading what was looked at. */
static int open_again(int fd)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    return open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

static int read_checked(const char *file, int fd, const struct stat *status, char **bytes,
                        size_t *size, struct un_error *err)
{
    int opened = open_again(fd);
    ssize_t length = -1;
    if (opened >= 0) {
        *bytes = malloc((size_t)status->st_size + 1);
        length = *bytes ? read_all(opened, *bytes, (size_t)status->st_size) : -1;
    }
    int failed = length < 0 ? un_fail_errno(err, UN_STEP_LAUNCH, file) : 0;
    if (opened >= 0)
        close(opened);
    *size = (size_t)length;
    return failed;
}

static int read_file(const char *file, char **bytes, size_t *size, struct un_error *err)
{
    char real[UN_PATH_MAX];
    struct stat status;
    int fd = find(file, real, err);
    if (fd < 0)
        return -1;
    int failed = fstat(fd, &status) ? un_fail_errno(err, UN_STEP_LAUNCH, file)
                                    : check(file, real, &status, err);
    if (!failed)
        failed = read_checked(file, fd, &status, bytes, size, err);
    close(fd);
    return failed;
}

int un_launch_file_read(const char *file, char **bytes, struct un_launch **launch,
                        struct un_error *err)
{
    size_t size;
    *bytes = NULL;
    *launch = NULL;
    if (read_file(file, bytes, &size, err))
        return -1;
    if (!un_launch_parse(*bytes, size, launch, err))
        return 0;
    /* Which file it was is not known where it is read. */
    char detail[UN_DETAIL_MAX];
    strcpy(detail, err->detail);
    return un_fail(err, UN_STEP_LAUNCH, err->errnum, err->cause, "%.200s: %.300s", file, detail);
}
