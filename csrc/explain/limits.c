#include "base/base.h"
#include "explain/explain.h"

#include <inttypes.h>

/* The files with the counters, in version 1 and version 2 of control groups. /proc/PID/cgroup lists
 * controllers for version 1 only. */
static const struct {
    const char *controller;
    const char *files[2];
    const char *field;
    const char *cause;
} limits[UN_LIMIT_COUNT] = {
    [UN_LIMIT_MEMORY] = {"memory",
                         {"memory.oom_control", "memory.events"},
                         "oom_kill ",
                         "out-of-memory"},
    [UN_LIMIT_PIDS] = {"pids", {"pids.events", "pids.events"}, "max ", "process-limit"},
};

/* Returns the counter, or -1 if it can't be read. In a container, `group` may be a path in the
 * host's hierarchy, and the process's own control group is then the one at the mount point. */
static int64_t count_in(enum un_limit limit, int version, const char *group)
{
    char mount[64], path[UN_PATH_MAX + 128];
    snprintf(mount, sizeof mount, "/sys/fs/cgroup%s%s", version == 1 ? "/" : "",
             version == 1 ? limits[limit].controller : "");
    snprintf(path, sizeof path, "%s%s/%s", mount, strcmp(group, "/") ? group : "",
             limits[limit].files[version - 1]);
    int64_t count = un_field_number(path, limits[limit].field);
    if (count >= 0)
        return count;
    snprintf(path, sizeof path, "%s/%s", mount, limits[limit].files[version - 1]);
    return un_field_number(path, limits[limit].field);
}

uint64_t un_limit_hits(enum un_limit limit)
{
    char group[UN_PATH_MAX];
    int64_t count = -1;
    if (un_proc_cgroup("/proc", limits[limit].controller, group, sizeof group))
        count = count_in(limit, 1, group);
    if (count < 0 && un_proc_cgroup("/proc", "", group, sizeof group))
        count = count_in(limit, 2, group);
    return count < 0 ? 0 : (uint64_t)count;
}

const char *un_limit_cause(enum un_limit limit)
{
    return limits[limit].cause;
}
