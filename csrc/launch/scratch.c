/*
 * The scratch directory: a tmpfs for the files of a sandbox. The tmpfs is mounted on a directory of
 * the host. A recursive bind mount of a parent of that directory must show the directory itself,
 * not the tmpfs, so the tmpfs is unbindable (mount_namespaces(7)). Files on an unbindable mount
 * can't be sources of bind mounts, so the files of the sandbox are on a second tmpfs, mounted in
 * the first tmpfs.
 */
#include "base/base.h"
#include "launch/launch.h"

#include <sys/mount.h>

#define OPTIONS (MS_NOSUID | MS_NODEV)

/* Returns whether a path names a directory, and no component of the path is a symbolic link. */
static bool is_real_directory(const char *path)
{
    struct stat status;
    char real[UN_PATH_MAX];
    un_auto_close int fd = un_open_exact(path, real);
    if (fd < 0)
        return false;
    return !fstat(fd, &status) && S_ISDIR(status.st_mode) && !strcmp(path, real);
}

static const char *choose(struct un_launch *launch, struct un_error *err)
{
    UN_EACH_RECORD (record, launch, UN_VERB_SCRATCH)
        if (is_real_directory(record->arguments))
            return record->arguments;
    un_launch_set_remedy(launch, NULL, "mkdir /mnt    # as root");
    un_fail(err, UN_STEP_MOUNT, 0, "no-mount-point", "no directory is free for the run's tmpfs");
    return NULL;
}

static int mount_both(struct un_launch *launch, const char *place, struct un_error *err)
{
    const char *inner = launch->marks.scratch;
    if (un_mount(NULL, place, NULL, MS_UNBINDABLE, NULL, err))
        return -1;
    if (mkdir(inner, 0777))
        return un_launch_fail_file(launch, inner, err);
    if (un_mount("usernsctl", inner, "tmpfs", OPTIONS, "mode=0755", err))
        return -1;
    launch->root.scratch = openat(AT_FDCWD, inner, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return launch->root.scratch < 0 ? un_launch_fail_file(launch, inner, err) : 0;
}

int un_scratch_mount(struct un_launch *launch, struct un_error *err)
{
    const char *place = choose(launch, err);
    if (!place)
        return -1;
    int length =
        snprintf(launch->marks.scratch, sizeof launch->marks.scratch, "%s/usernsctl", place);
    if (length >= (int)sizeof launch->marks.scratch) {
        errno = ENAMETOOLONG;
        return un_launch_fail_file(launch, place, err);
    }
    if (un_mount("usernsctl", place, "tmpfs", OPTIONS, "mode=0755", err))
        return -1;
    if (!mount_both(launch, place, err))
        return 0;
    umount2(place, MNT_DETACH);
    return -1;
}

void un_scratch_unmount(struct un_launch *launch)
{
    char place[UN_PATH_MAX];
    if (launch->root.scratch < 0)
        return;
    strcpy(place, launch->marks.scratch);
    *strrchr(place, '/') = '\0';
    umount2(place, MNT_DETACH);
}
