/* Writing the files setgroups, uid_map and gid_map of this process itself. */
#include "base/base.h"
#include "sys/sys.h"

#include <sched.h>
#include <sys/prctl.h>

const struct un_map_file un_map_files[UN_MAP_FILES] = {
    [UN_FILE_SETGROUPS] = {"setgroups", UN_SETGROUPS_FILE, UN_STEP_SETGROUPS},
    [UN_FILE_UID_MAP] = {"uid_map", "/proc/PID/uid_map", UN_STEP_UID_MAP},
    [UN_FILE_GID_MAP] = {"gid_map", "/proc/PID/gid_map", UN_STEP_GID_MAP},
};

static int fail_map_file(int file, struct un_error *err)
{
    return un_fail_errno(err, un_map_files[file].step, un_map_files[file].object);
}

int un_map_file_open(int dir, int file, struct un_error *err)
{
    int fd = openat(dir, un_map_files[file].name, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? fail_map_file(file, err) : fd;
}

/* Uses a single write(2), because the kernel accepts the content of each of these files only as a
 * whole. */
int un_map_file_write(int fd, int file, const char *text, struct un_error *err)
{
    ssize_t length = (ssize_t)strlen(text), written = write(fd, text, (size_t)length);
    if (written >= 0 && written != length)
        errno = EIO;
    return written == length ? 0 : fail_map_file(file, err);
}

static int open_files(int dir, const char *const text[UN_MAP_FILES], int fd[UN_MAP_FILES],
                      struct un_error *err)
{
    for (int i = 0; i < UN_MAP_FILES; i++)
        if (text[i] && fd[i] < 0 && (fd[i] = un_map_file_open(dir, i, err)) < 0)
            return -1;
    return 0;
}

static int write_files(const char *const text[UN_MAP_FILES], const int fd[UN_MAP_FILES],
                       struct un_error *err)
{
    for (int i = 0; i < UN_MAP_FILES; i++)
        if (text[i] && un_map_file_write(fd[i], i, text[i], err))
            return -1;
    return 0;
}

/* Opens the map files of this process, which is non-dumpable. The files of a non-dumpable process
 * in /proc belong to uid 0 of the user namespace in which its program was executed (proc_pid(5)),
 * or, on old kernels, to uid 0 of the initial user namespace. If this process has uid 0, it first
 * tries to open the files while it is non-dumpable. Otherwise, or if that fails with EACCES, it
 * becomes dumpable while it opens the files. */
static int open_while_hidden(int dir, const struct un_own_maps *maps,
                             const char *const text[UN_MAP_FILES], int fd[UN_MAP_FILES],
                             struct un_error *err)
{
    if (maps->is_root) {
        int failed = open_files(dir, text, fd, err);
        if (!failed || err->errnum != EACCES)
            return failed;
    }
    /* Ignore a failure: this process then stays non-dumpable, so open_files() fails and fills in
     * the error. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    int failed = open_files(dir, text, fd, err);
    struct un_error ignored;
    return un_hide_process(failed ? &ignored : err) ? -1 : failed;
}

static int write_own_maps(const struct un_own_maps *maps, struct un_error *err)
{
    const char *const text[UN_MAP_FILES] = {
        [UN_FILE_SETGROUPS] = maps->policy,
        [UN_FILE_UID_MAP] = maps->map[UN_UID],
        [UN_FILE_GID_MAP] = maps->map[UN_GID],
    };
    /* Store the descriptor of /proc/self in the array of the map files, so that one call of
     * un_close_each() closes all of them. */
    int all[1 + UN_MAP_FILES] = {un_open_self(err), -1, -1, -1}, *fd = all + 1;
    if (all[0] < 0)
        return -1;
    int failed = open_while_hidden(all[0], maps, text, fd, err);
    if (!failed)
        failed = write_files(text, fd, err);
    un_close_each(all, 1 + UN_MAP_FILES);
    return failed;
}

int un_make_and_map(uint64_t flags, const struct un_own_maps *maps, struct un_error *err)
{
    if (unshare((int)flags))
        return un_fail_errno(err, UN_STEP_UNSHARE, "");
    return write_own_maps(maps, err);
}
