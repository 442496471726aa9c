/* Writing setgroups, uid_map and gid_map of this process itself. */
#include "base/error.h"
#include "sys/map_files.h"
#include "sys/namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { POLICY, UID_MAP, GID_MAP, FILES };

static const struct {
    const char *name;
    enum un_step step;
} files[FILES] = {
    [POLICY] = {"setgroups", UN_STEP_SETGROUPS},
    [UID_MAP] = {"uid_map", UN_STEP_UID_MAP},
    [GID_MAP] = {"gid_map", UN_STEP_GID_MAP},
};

static int fail_file(int file, struct un_error *err)
{
    return un_fail_errno(err, files[file].step, files[file].name);
}

static int open_files(int dir, const char *const text[FILES], int fd[FILES], struct un_error *err)
{
    for (int i = 0; i < FILES; i++)
        if (text[i] && fd[i] < 0 && (fd[i] = openat(dir, files[i].name, O_WRONLY | O_CLOEXEC)) < 0)
            return fail_file(i, err);
    return 0;
}

/* In the order of the kernel: see un_write_maps(). */
static int write_files(const char *const text[FILES], const int fd[FILES], struct un_error *err)
{
    for (int i = 0; i < FILES; i++) {
        if (!text[i])
            continue;
        ssize_t length = (ssize_t)strlen(text[i]), written = write(fd[i], text[i], (size_t)length);
        if (written >= 0 && written != length)
            errno = EIO;
        if (written != length)
            return fail_file(i, err);
    }
    return 0;
}

int un_write_own_maps(const struct un_own_maps *maps, struct un_error *err)
{
    const char *const text[FILES] = {maps->policy, maps->map[UN_UID], maps->map[UN_GID]};
    int fd[FILES] = {-1, -1, -1};
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self < 0)
        return un_fail_errno(err, UN_STEP_FACTS, "/proc/self");
    int failed = open_files(self, text, fd, err);
    /* The files of a hidden process are root's. */
    if (failed && err->errnum == EACCES) {
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        failed = open_files(self, text, fd, err);
        un_hide_process();
    }
    close(self);
    if (!failed)
        failed = write_files(text, fd, err);
    for (int i = 0; i < FILES; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    return failed;
}
