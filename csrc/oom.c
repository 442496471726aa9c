#include "oom.h"
#include "usernsctl.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The two versions of control groups: where each is mounted, and the file that counts. */
struct hierarchy {
    const char *controllers; /* in /proc/PID/cgroup */
    const char *mount;
    const char *file;
};

static const struct hierarchy hierarchies[] = {
    {"memory", "/sys/fs/cgroup/memory", "memory.oom_control"},
    {"", "/sys/fs/cgroup", "memory.events"},
};

static bool read_count(const char *path, uint64_t *count)
{
    char line[128];
    bool found = false;
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file))
        found = sscanf(line, "oom_kill %" SCNu64, count) == 1;
    if (file)
        fclose(file);
    return found;
}

/* `group` is our place in the hierarchy, "/a/b", or in that of the host: a container sees its own
 * group where the hierarchy is mounted. */
static bool count_in(const struct hierarchy *hierarchy, const char *group, uint64_t *count)
{
    char path[UN_PATH_MAX + 128];
    snprintf(path, sizeof path, "%s%s/%s", hierarchy->mount, group, hierarchy->file);
    if (read_count(path, count))
        return true;
    snprintf(path, sizeof path, "%s/%s", hierarchy->mount, hierarchy->file);
    return read_count(path, count);
}

uint64_t un_oom_kills(void)
{
    char line[UN_PATH_MAX];
    uint64_t count = 0;
    bool found = false;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        /* ID:CONTROLLERS:PATH (cgroups(7)) */
        char *controllers = strchr(line, ':'), *path = controllers;
        if (!controllers || !(path = strchr(++controllers, ':')))
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        for (size_t i = 0; i < sizeof hierarchies / sizeof *hierarchies && !found; i++)
            if (!strcmp(controllers, hierarchies[i].controllers))
                found = count_in(&hierarchies[i], strcmp(path, "/") ? path : "", &count);
    }
    if (file)
        fclose(file);
    return count;
}
