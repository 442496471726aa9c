/*
 * Warning about container volumes that seem writable to the command, but that do not receive the
 * command's writes.
 *
 * If the sandbox sees all files of a container, gVisor keeps the files that the command writes in
 * memory, even those below mount points of volumes. Users would notice the loss only after the
 * container has exited.
 *
 * The warning lists each volume that is a directory to which the caller may write, unless the
 * launch itself mounts something there. So a user can avoid the warning by mounting the volume
 * read-only, or by writing a launch file that bind-mounts the volume.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "programs/exec/exec.h"

#include <sys/stat.h>

/* Size in bytes of the warning's list of volumes. */
#define LIST_MAX 512

/* Returns whether the sandbox sees all files of this container. */
static bool shows_all(const struct un_launch *launch)
{
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    return tree && !strcmp(un_record_source(launch, tree, 0)->path, "/");
}

/* Returns whether a mount of the launch covers `path` or one of its parent directories. */
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

/* Returns whether a mount is a volume, whose contents outlive the container. */
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
             "writes of the command to %s are lost: freeze with --bind PATH:rw, or mount read-only",
             list);
    report_message(
        (struct report){.program = "usernsctl-exec", .level = "warning", .message = text});
}
