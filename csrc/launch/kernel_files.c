/* Finding kernel filesystems, such as proc and sysfs, that contain the source of a bind mount or
 * are mounted below the source. */
#include "base/base.h"
#include "launch/launch.h"

static const char *const tops[] = {"/proc", "/sys", "/dev"};

static const char *const kernel_types[] = {
    "binfmt_misc", "bpf",        "cgroup",    "cgroup2", "configfs", "debugfs", "devpts",
    "devtmpfs",    "efivarfs",   "fusectl",   "mqueue",  "nsfs",     "proc",    "pstore",
    "resctrl",     "securityfs", "selinuxfs", "smackfs", "sysfs",    "tracefs",
};

/* Returns the filesystem type of a mount if the filesystem is an interface of the kernel, otherwise
 * NULL. */
static const char *kernel_type(const struct un_mounted *mount)
{
    for (size_t i = 0; i < sizeof kernel_types / sizeof *kernel_types; i++)
        if (!strcmp(mount->type, kernel_types[i]))
            return kernel_types[i];
    return NULL;
}

/* Returns whether a file lies on the filesystem that is mounted on /dev, even if the file was
 * reached through another mount point. */
static bool is_in_dev(int fd)
{
    struct stat file, dev, root;
    return !fstat(fd, &file) && !stat("/dev", &dev) && !stat("/", &root) &&
           file.st_dev == dev.st_dev && dev.st_dev != root.st_dev;
}

/* Returns whether a mount is a descendant of the mount with the id `top`. Comparing the paths of
 * mount points would not suffice: a mount that a later mount hides, such as one on /tmp/a below a
 * new tmpfs on /tmp, keeps its path in mountinfo. */
static bool is_mounted_below(const struct un_mounts *mounts, const struct un_mounted *mount,
                             int top)
{
    for (size_t levels = mounts->count; levels-- && mount && mount->parent != top;)
        mount = un_mounts_by_id(mounts, mount->parent);
    return mount && mount->parent == top;
}

static int find_by_mounts(const struct un_mounts *mounts, int fd, const char *path,
                          const char **part)
{
    const struct un_mounted *own;
    if (un_mounts_find(mounts, fd, &own))
        return -1;
    *part = own ? kernel_type(own) : NULL;
    if (!*part && is_in_dev(fd))
        *part = "/dev";
    for (size_t i = 0; !*part && i < mounts->count; i++) {
        const struct un_mounted *mount = &mounts->mount[i];
        if (un_is_below(mount->point, path) && strcmp(mount->point, path) != 0 &&
            kernel_type(mount) && (!own || is_mounted_below(mounts, mount, own->id)))
            *part = kernel_type(mount);
    }
    return 0;
}

int un_machine_part(int fd, const char **part)
{
    char path[UN_PATH_MAX];
    *part = NULL;
    if (un_path_of(fd, path))
        return -1;
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
        if (un_is_below(path, tops[i]) || un_is_below(tops[i], path)) {
            *part = tops[i];
            return 0;
        }
    un_auto_mounts struct un_mounts mounts;
    if (un_mounts_read(&mounts, "/proc/self/mountinfo"))
        return -1;
    return find_by_mounts(&mounts, fd, path, part);
}

static int refuse_kernel_file(struct un_launch *launch, const struct un_source *source,
                              struct un_error *err)
{
    const char *part;
    if (un_machine_part(source->fd, &part))
        /* Reject the bind mount if the check itself fails. */
        part = "an unknown filesystem";
    /* Allow a writable bind mount of a device, because access to the device is its purpose. */
    if (!part || !strcmp(part, "/dev"))
        return 0;
    un_launch_set_remedy(launch, source->path,
                         "bind without :rw, or bind only the files that are needed");
    return un_fail(err, UN_STEP_BIND, 0, "bind-writes-machine",
                   "%.300s: %s must not be writable in a sandbox: writes act on the kernel",
                   source->path, part);
}

int un_refuse_kernel_files(struct un_launch *launch, struct un_error *err)
{
    UN_EACH_RECORD (record, launch, UN_VERB_BIND) {
        const struct un_source *source = un_record_source(launch, record, 0);
        bool is_writable = !strcmp(un_record_argument(record, 2), "rw");
        if (is_writable && source->is_ours && refuse_kernel_file(launch, source, err))
            return -1;
    }
    return 0;
}
