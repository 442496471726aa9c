/* Writing setgroups, uid_map and gid_map. */
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* The kernel takes a map, and a policy, in one write(2) or not at all. */
static int write_once(int dir, const char *name, const char *text, size_t length, enum un_step step,
                      struct un_error *err)
{
    int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return un_fail_errno(err, step, name);
    ssize_t written = write(fd, text, length);
    if (written >= 0 && (size_t)written != length) {
        errno = EIO;
        written = -1;
    }
    if (written < 0)
        un_fail_errno(err, step, name);
    close(fd);
    return written < 0 ? -1 : 0;
}

static int write_map(int dir, const char *name, const struct un_map *map, enum un_step step,
                     struct un_error *err)
{
    if (map->len == 0)
        return 0;
    char text[UN_MAP_TEXT_MAX];
    size_t length = un_map_format(map, text);
    return write_once(dir, name, text, length, step, err);
}

/*
 * The order is the kernel's: "deny" must be there before an unprivileged process writes gid_map,
 * and can't be written after it (user_namespaces(7), "The /proc/PID/setgroups file").
 */
int un_write_maps(int dir, const struct un_plan *plan, struct un_error *err)
{
    if (plan->setgroups != UN_SETGROUPS_AUTO) {
        const char *policy = plan->setgroups == UN_SETGROUPS_DENY ? "deny" : "allow";
        if (write_once(dir, "setgroups", policy, strlen(policy), UN_STEP_SETGROUPS, err))
            return -1;
    }
    if (write_map(dir, "uid_map", &plan->map.of[UN_UID], UN_STEP_UID_MAP, err) ||
        write_map(dir, "gid_map", &plan->map.of[UN_GID], UN_STEP_GID_MAP, err))
        return -1;
    return 0;
}
