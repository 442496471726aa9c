/* Writing setgroups, uid_map and gid_map. */
#include "sys/map_files.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const char *const map_names[] = {[UN_UID] = "uid_map", [UN_GID] = "gid_map"};
static const enum un_step map_steps[] = {[UN_UID] = UN_STEP_UID_MAP, [UN_GID] = UN_STEP_GID_MAP};

static const char *policy_of(const struct un_plan *plan)
{
    if (plan->setgroups == UN_SETGROUPS_AUTO)
        return NULL;
    return plan->setgroups == UN_SETGROUPS_DENY ? "deny" : "allow";
}

void un_own_maps_of(const struct un_plan *plan, char text[2][UN_MAP_TEXT_MAX],
                    struct un_own_maps *maps)
{
    maps->policy = policy_of(plan);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        bool ours = plan->writer[kind] == UN_WRITER_SELF;
        if (ours)
            un_map_format(&plan->map.of[kind], text[kind]);
        maps->map[kind] = ours ? text[kind] : NULL;
    }
}

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
    const char *policy = policy_of(plan);
    if (policy && write_once(dir, "setgroups", policy, strlen(policy), UN_STEP_SETGROUPS, err))
        return -1;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        bool ours = plan->writer[kind] == UN_WRITER_SELF || plan->writer[kind] == UN_WRITER_PARENT;
        if (ours && write_map(dir, map_names[kind], &plan->map.of[kind], map_steps[kind], err))
            return -1;
    }
    return 0;
}

int un_verify_maps(int dir, const struct un_plan *plan, struct un_error *err)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        struct un_map written;
        if (un_map_read(dir, map_names[kind], &written, err))
            return -1;
        if (!un_map_equal(&written, &plan->map.of[kind]))
            return un_fail(err, map_steps[kind], 0, "map-not-written",
                           "the kernel shows another map than was planned");
    }
    return 0;
}
