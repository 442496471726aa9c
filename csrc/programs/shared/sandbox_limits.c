#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <sys/mount.h>
#include <sys/stat.h>

/* Mounts a tmpfs on the directory "disk" in `directory`. gVisor stores the sandbox's writes to the
 * root filesystem in a file on this tmpfs, so the size of the tmpfs limits these writes. */
static int mount_disk(const char *directory, uint64_t bytes, bool shares_mounts,
                      struct un_error *err)
{
    char path[UN_PATH_MAX], options[64];
    if (un_path_join(path, directory, "disk") || mkdir(path, 0700))
        return un_fail_errno(err, UN_STEP_SANDBOX, directory);
    if (shares_mounts && un_leave_mount_namespace(err))
        return -1;
    snprintf(options, sizeof options, "mode=0700,size=%" PRIu64, bytes);
    return un_mount("usernsctl", path, "tmpfs", MS_NOSUID | MS_NODEV, options, err);
}

int sandbox_show_limits(const char *directory, const struct un_limits *limits, bool shares_mounts,
                        struct un_error *err)
{
    char path[UN_PATH_MAX];
    if (un_path_join(path, directory, "meminfo"))
        return un_fail_errno(err, UN_STEP_SANDBOX, directory);
    if (un_show_limits(path, limits->memory, limits->processors, shares_mounts, err))
        return -1;
    return limits->disk ? mount_disk(directory, limits->disk, shares_mounts, err) : 0;
}
