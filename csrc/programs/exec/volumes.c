/*
 * A warning about volumes of a container that the command sees, but can't write to.
 *
 * A launch that shows all files of a container keeps what the command writes in memory, also below
 * the mount points of volumes, and nobody notices before the container has ended. A volume counts
 * if it is a directory that this user may write to, and if the launch does not say what is there.
 * Users who mount the volume read-only, or bind it, get no warning.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "programs/exec/exec.h"

#include <sys/stat.h>

/* Length of the list of volumes in the warning. */
#define LIST_MAX 512

/* Returns whether the launch shows all files of this machine. */
static bool shows_all(const struct un_launch *launch)
{
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    return tree && !strcmp(un_record_source(launch, tree, 0)->path, "/");
}

/* Returns whether the launch has a mount of its own at this path, or at one of its parents. */
static bool is_covered(const struct un_launch *launch, const char *path)
{
    UN_EACH_RECORD (record, launch, UN_VERB_BIND)
        if (un_is_below(path, un_record_argument(record, 1)))
            return true;
    UN_EACH_RECORD (record, launch, UN_VERB_MOUNT)
        if (un_is_below(path, un_record_argument(record, 0)))
            return true;
    return false;
}

static bool is_writable_directory(const char *path)
{
    struct stat status;
    return !lstat(path, &status) && S_ISDIR(status.st_mode) && !access(path, W_OK);
}

/* Returns whether a mount is a volume whose contents survive the container. */
static bool is_volume(const struct un_mounted *mount)
{
    static const char *const others[] = {"/dev", "/proc", "/sys"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (un_is_below(mount->point, others[i]))
            return false;
    return strcmp(mount->point, "/") && strcmp(mount->type, "tmpfs");
}

void un_warn_of_volumes(const struct un_launch *launch)
{
    char list[LIST_MAX] = "";
    size_t length = 0;
    un_auto_mounts struct un_mounts mounts = {.text = NULL};
    if (!shows_all(launch) || un_mounts_read(&mounts, "/proc/self/mountinfo"))
        return;
    for (size_t i = 0; i < mounts.count && length < sizeof list; i++) {
        const char *point = mounts.mount[i].point;
        if (is_volume(&mounts.mount[i]) && !is_covered(launch, point) &&
            is_writable_directory(point))
            length += (size_t)snprintf(list + length, sizeof list - length, "%s%s",
                                       length ? ", " : "", point);
    }
    if (!length)
        return;
    un_make_printable(list);
    char text[LIST_MAX + 128];
    snprintf(text, sizeof text,
             "what the command writes to %s is lost: bind it by --bind of usernsctl freeze, or "
             "mount it read-only",
             list);
    report_message(
        (struct report){.program = "usernsctl-exec", .level = "warning", .message = text});
}
