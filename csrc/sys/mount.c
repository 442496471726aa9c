/*
 * Mounting by path and by descriptor.
 *
 * A user with write permission for a directory can replace an entry by a symbolic link after a path
 * is checked and before it is used. A descriptor always refers to the same file. So files and mount
 * points that another user could replace are passed by descriptor, to open_tree(2) and
 * move_mount(2) (since Linux 5.2) and mount_setattr(2) (since Linux 5.12).
 */
#include "base/base.h"
#include "sys/sys.h"

#include <sys/mount.h>
#include <sys/syscall.h>

/* These constants are defined here, because some libcs lack them, and linux/mount.h can't be
 * included together with sys/mount.h. */
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1U
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x4U
#endif
#ifndef MOVE_MOUNT_T_EMPTY_PATH
#define MOVE_MOUNT_T_EMPTY_PATH 0x40U
#endif

/* A copy of struct mount_attr in linux/mount.h. */
struct attributes {
    uint64_t set, clear, propagation, userns_fd;
};

int un_mount(const char *source, const char *target, const char *type, unsigned long flags,
             const char *data, struct un_error *err)
{
    if (mount(source, target, type, flags, data))
        return un_fail_errno(err, UN_STEP_MOUNT, target);
    return 0;
}

/* Returns whether the last system call failed because the kernel lacks the call or a filter denies
 * it. The call had the descriptor -1, so it fails with EBADF if it exists and no filter denies
 * it. */
static bool is_call_missing(long result)
{
    return result < 0 && errno != EBADF;
}

/* Returns whether one of the mount calls is missing or denied by a filter. Two of the calls also
 * fail without CAP_SYS_ADMIN, but all callers of this function have that capability. */
static bool is_mount_denied(void)
{
    const struct attributes read_only = {.set = 1};
    const unsigned both = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    return is_call_missing(syscall(UN_SYS_OPEN_TREE, -1, "", AT_EMPTY_PATH)) ||
           is_call_missing(syscall(UN_SYS_MOVE_MOUNT, -1, "", -1, "", both)) ||
           is_call_missing(
               syscall(UN_SYS_MOUNT_SETATTR, -1, "", AT_EMPTY_PATH, &read_only, sizeof read_only));
}

static int fail_mount_call(const char *name, struct un_error *err)
{
    un_fail_errno(err, UN_STEP_MOUNT, name);
    if (is_mount_denied())
        err->cause = "mount-by-descriptor-missing";
    return -1;
}

static int set_attributes(int fd, uint64_t set, uint64_t clear)
{
    const struct attributes attributes = {.set = set, .clear = clear};
    return (int)syscall(UN_SYS_MOUNT_SETATTR, fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                        sizeof attributes);
}

int un_mount_restrict(int top, uint64_t set, uint64_t clear, const char *name, struct un_error *err)
{
    return set_attributes(top, set, clear) ? fail_mount_call(name, err) : 0;
}

int un_bind(int source, int target, uint64_t attributes, const char *name, struct un_error *err)
{
    /* The copy must be recursive. A process whose user namespace does not own the mounts can't
     * bind-mount a directory without the mounts below it, because these may hide files
     * (mount_namespaces(7)). */
    unsigned flags = OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE | O_CLOEXEC;
    un_auto_close int tree = (int)syscall(UN_SYS_OPEN_TREE, source, "", flags);
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    if (tree < 0 || (attributes && set_attributes(tree, attributes, 0)) ||
        syscall(UN_SYS_MOVE_MOUNT, tree, "", target, "", flags))
        return fail_mount_call(name, err);
    return 0;
}
