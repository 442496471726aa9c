#include "base/base.h"
#include "explain/explain.h"
#include "sys/sys.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define PROCS "/cgroup.procs"

static bool is_on_cgroup2(const char *path)
{
    struct statfs fs;
    return !statfs(path, &fs) && (uint64_t)fs.f_type == CGROUP2_SUPER_MAGIC;
}

/* Returns the length of the mount point of the cgroup2 filesystem that contains `path`. The mount
 * point is a prefix of `path`. */
static size_t mount_length(const char *path)
{
    char above[UN_PATH_MAX];
    size_t length = strlen(path);
    snprintf(above, sizeof above, "%s", path);
    for (char *slash; (slash = strrchr(above, '/')) && slash > above; length = strlen(above)) {
        *slash = '\0';
        if (!is_on_cgroup2(above))
            break;
    }
    return length;
}

/* Returns the length of the path of the closest common ancestor of two paths. For "/a/b" and
 * "/a/bc", the ancestor is "/a", so the length is 2. */
static size_t common_length(const char *a, const char *b)
{
    size_t common = 0;
    for (size_t i = 0;; i++) {
        if ((a[i] == '/' || !a[i]) && (b[i] == '/' || !b[i]))
            common = i;
        if (!a[i] || a[i] != b[i])
            return common;
    }
}

static bool may_write(const char *file)
{
    return !faccessat(AT_FDCWD, file, W_OK, AT_EACCESS);
}

/*
 * Finds the file whose permissions do not let this process move a process into the cgroup `path`.
 * Such a move requires write permission for cgroup.procs of that cgroup, and for cgroup.procs of
 * the closest common ancestor of that cgroup and this process's own cgroup (cgroups(7), "Cgroups v2
 * delegation: delegation containment"). Returns false if both files are writable.
 */
static bool find_unwritable(const char *path, char *file, size_t size)
{
    char own[UN_PATH_MAX];
    snprintf(file, size, "%s" PROCS, path);
    if (!may_write(file))
        return true;
    if (!un_proc_cgroup("/proc", "", own, sizeof own))
        return false;
    size_t mount = mount_length(path);
    size_t common = common_length(path + mount, strcmp(own, "/") ? own : "");
    snprintf(file, size, "%.*s" PROCS, (int)(mount + common), path);
    return !may_write(file);
}

static void set_cgroup_cause(struct un_error *err, const char *cause, const char *what)
{
    un_fail(err, UN_STEP_CGROUP, err->errnum, cause, "%s", what);
}

void un_explain_cgroup(struct un_error *err, int dir)
{
    char link[UN_FD_PATH_MAX], path[UN_PATH_MAX], file[UN_PATH_MAX + sizeof PROCS];
    struct stat status;

    ssize_t length = readlink(un_fd_path(dir, link), path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
    if (length < 0)
        memcpy(path, link, sizeof link);
    switch (err->errnum) {
    case ENOSYS:
    case EPERM:
        /* Only clone3(2) can start a process in a cgroup. If clone3(2) exists and no filter denies
         * it, ENOSYS and EPERM are due to the requested namespaces, not to the cgroup. */
        if (!un_clone3_works())
            set_cgroup_cause(err, "clone-into-cgroup-missing", path);
        break;
    case E2BIG:
        set_cgroup_cause(err, "clone-into-cgroup-missing", path);
        break;
    case EBADF:
        set_cgroup_cause(err, fstat(dir, &status) ? NULL : "cgroup-not-unified", path);
        break;
    case EBUSY:
    case EOPNOTSUPP:
        set_cgroup_cause(err, "cgroup-takes-no-process", path);
        break;
    case ENODEV:
    case ENOENT:
        set_cgroup_cause(err, NULL, path);
        break;
    case EACCES:
        if (find_unwritable(path, file, sizeof file))
            set_cgroup_cause(err, "cgroup-not-delegated", file);
        break;
    default:
        break;
    }
}
