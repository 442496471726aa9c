#include "base/base.h"
#include "explain/explain.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the counter is in version 1 of control groups, and in version 2, which has no controllers
 * in /proc/PID/cgroup. */
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

static bool read_count(const char *path, const char *field, uint64_t *count)
{
    char line[128];
    bool found = false;
    un_auto_fclose FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        found = !strncmp(line, field, strlen(field));
        if (found)
            *count = strtoull(line + strlen(field), NULL, 10);
    }
    return found;
}

/* `group` is our place in the hierarchy, or in that of the host: a container sees its own group
 * where the hierarchy is mounted. */
static bool count_in(enum un_limit limit, int version, const char *group, uint64_t *count)
{
    char mount[64], path[UN_PATH_MAX + 128];
    snprintf(mount, sizeof mount, "/sys/fs/cgroup%s%s", version == 1 ? "/" : "",
             version == 1 ? limits[limit].controller : "");
    snprintf(path, sizeof path, "%s%s/%s", mount, strcmp(group, "/") ? group : "",
             limits[limit].files[version - 1]);
    if (read_count(path, limits[limit].field, count))
        return true;
    snprintf(path, sizeof path, "%s/%s", mount, limits[limit].files[version - 1]);
    return read_count(path, limits[limit].field, count);
}

uint64_t un_limit_hits(enum un_limit limit)
{
    char group[UN_PATH_MAX];
    uint64_t count = 0;
    if (un_proc_cgroup("/proc", limits[limit].controller, group, sizeof group) &&
        count_in(limit, 1, group, &count))
        return count;
    if (un_proc_cgroup("/proc", "", group, sizeof group))
        count_in(limit, 2, group, &count);
    return count;
}

const char *un_limit_cause(enum un_limit limit)
{
    return limits[limit].cause;
}
