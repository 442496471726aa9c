/* Reading the limits of this process's control group and of its ancestors (cgroups(7)). */
#include "facts/facts.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <linux/magic.h>
#include <sys/vfs.h>

const struct un_groups un_groups_here = {
    .proc = "/proc", .mounts = "/sys/fs/cgroup", .users = "/run/user"};

/* Returns whether a directory is on a cgroup filesystem. The check is needed because a volume may
 * be mounted in place of the cgroup filesystem, and the files of a volume may contain any text. */
static bool is_of_groups(const struct un_groups *groups, int directory)
{
    struct statfs fs;
    if (groups->is_copy)
        return true;
    return !fstatfs(directory, &fs) && ((uint64_t)fs.f_type == CGROUP_SUPER_MAGIC ||
                                        (uint64_t)fs.f_type == CGROUP2_SUPER_MAGIC);
}

static int open_mount(const struct un_groups *groups, const char *controller)
{
    char path[UN_PATH_MAX];
    if (un_path_join(path, groups->mounts, controller))
        return -1;
    int fd = openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || is_of_groups(groups, fd))
        return fd;
    close(fd);
    return -1;
}

/* Opens the file `file` of the control group `group`, a path that begins with a slash and is
 * relative to the mount point `mount`. */
static int open_in(int mount, const char *group, const char *file)
{
    char path[UN_PATH_MAX];
    if (snprintf(path, sizeof path, "%s%s%s", group + 1, group[1] ? "/" : "", file) >=
        (int)sizeof path)
        return -1;
    return openat(mount, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* Shortens the path of a control group to the path of its parent. Returns false if `group` is the
 * root cgroup. */
static bool go_up(char *group)
{
    char *slash = strrchr(group, '/');
    if (!slash || !group[1])
        return false;
    slash[slash == group] = '\0';
    return true;
}

/* Returns whether a component of the path is "..". */
static bool leads_up(const char *path)
{
    for (const char *at = path; (at = strstr(at, "/..")); at++)
        if (!at[3] || at[3] == '/')
            return true;
    return false;
}

/* Finds the path of this process's control group relative to the mount point. In a container, the
 * path in /proc/self/cgroup may be valid only on the host, or begin with /..
 * (cgroup_namespaces(7)). In both cases, the result is "/", because the mount point itself is the
 * control group of the container. */
static bool find_group(const struct un_groups *groups, const char *controller, int mount,
                       char group[UN_PATH_MAX])
{
    struct stat status;
    if (!un_proc_cgroup(groups->proc, controller, group, UN_PATH_MAX) || *group != '/')
        return false;
    if (group[1] && (leads_up(group) || fstatat(mount, group + 1, &status, 0)))
        strcpy(group, "/");
    return true;
}

int un_group_find(const struct un_groups *groups, const char *controller, char group[UN_PATH_MAX])
{
    int mount = open_mount(groups, controller);
    if (mount < 0 || find_group(groups, controller, mount, group))
        return mount;
    close(mount);
    return -1;
}

/* Calls `visit` with the file `file` of this process's control group, and of each ancestor in turn,
 * the closest first, until `visit` returns false. `controller` selects a version 1 hierarchy; ""
 * selects version 2. Returns whether this process has a control group in that hierarchy. */
static bool visit_groups(const struct un_groups *groups, const char *controller, const char *file,
                         bool (*visit)(int fd, void *arg), void *arg)
{
    char group[UN_PATH_MAX];
    un_auto_close int mount = un_group_find(groups, controller, group);
    if (mount < 0)
        return false;
    bool goes_on = true;
    do {
        int fd = open_in(mount, group, file);
        goes_on = fd < 0 || visit(fd, arg);
    } while (goes_on && go_up(group));
    return true;
}

static bool keep_fd(int fd, void *arg)
{
    *(int *)arg = fd;
    return false;
}

int un_group_open(const struct un_groups *groups, const char *controller,
                  const char *const files[2], int *version)
{
    int fd = -1;
    *version = 1;
    if (visit_groups(groups, controller, files[0], keep_fd, &fd) && fd >= 0)
        return fd;
    *version = 2;
    visit_groups(groups, "", files[1], keep_fd, &fd);
    return fd;
}

/* Reads the beginning of a file, and closes the file. Returns false if the file can't be read or is
 * empty. */
static bool read_limit(int fd, char *text, size_t size)
{
    ssize_t length = un_read_all(fd, text, size - 1);
    close(fd);
    text[length < 0 ? 0 : length] = '\0';
    return length > 0;
}

bool un_group_number(const struct un_groups *groups, const char *controller,
                     const char *const files[2], uint64_t *number)
{
    char text[64];
    int version, fd = un_group_open(groups, controller, files, &version);
    return fd >= 0 && read_limit(fd, text, sizeof text) && un_number_read(text, UINT64_MAX, number);
}

static void lower(uint64_t *lowest, const char *number)
{
    uint64_t found;
    const char *end = number ? un_number_read(number, INT64_MAX, &found) : NULL;
    if (end && (*end == '\n' || !*end) && found < *lowest)
        *lowest = found;
}

/* Lowers *arg to the limit in a memory.max file, if the limit is lower. A text that is not a
 * number, such as "max", means no limit. */
static bool lower_by_memory_max(int fd, void *arg)
{
    char text[64];
    lower(arg, read_limit(fd, text, sizeof text) ? text : NULL);
    return true;
}

/* Lowers *arg to the hierarchical_memory_limit in a memory.stat file of cgroup v1, which is the
 * lowest limit of the group and its ancestors, including ancestors that a container can't see. */
static bool lower_by_memory_stat(int fd, void *arg)
{
    static const char key[] = "\nhierarchical_memory_limit ";
    char text[8192];
    const char *line = read_limit(fd, text, sizeof text) ? strstr(text, key) : NULL;
    lower(arg, line ? line + sizeof key - 1 : NULL);
    return false;
}

/* Lowers *processors to `quota` / `period` (both in microseconds), rounded up. */
static void lower_processors(uint64_t quota, uint64_t period, uint64_t *processors)
{
    if (!quota || !period)
        return;
    uint64_t count = (quota - 1) / period + 1;
    if (count < *processors)
        *processors = count;
}

/* Lowers *arg, a number of processors, to the CPU limit in a cpu.max file: the quota divided by the
 * period. */
static bool lower_by_max(int fd, void *arg)
{
    char text[64];
    uint64_t quota, period;
    const char *at =
        read_limit(fd, text, sizeof text) ? un_number_read(text, INT64_MAX, &quota) : NULL;
    if (at && *at == ' ' && un_number_read(at + 1, INT64_MAX, &period))
        lower_processors(quota, period, arg);
    return true;
}

/* Maximum number of nested cgroups whose CPU quotas are read. */
#define LEVELS_MAX 64
struct quotas {
    uint64_t number[LEVELS_MAX]; /* quotas or periods in microseconds; 0 for a cgroup without a
                                    quota */
    size_t count;
};

static bool add_quota(int fd, void *arg)
{
    char text[64];
    struct quotas *quotas = arg;
    uint64_t *number = &quotas->number[quotas->count++];
    if (!read_limit(fd, text, sizeof text) || !un_number_read(text, INT64_MAX, number))
        *number = 0;
    return quotas->count < LEVELS_MAX;
}

/* Lowers *processors to the lowest CPU limit of this process's version 1 cgroup and of the cgroup's
 * ancestors. The limit of a cgroup is its quota divided by its period. */
static bool lower_by_quotas(const struct un_groups *groups, uint64_t *processors)
{
    struct quotas quotas = {.count = 0}, periods = {.count = 0};
    if (!visit_groups(groups, "cpu", "cpu.cfs_quota_us", add_quota, &quotas))
        return false;
    visit_groups(groups, "cpu", "cpu.cfs_period_us", add_quota, &periods);
    for (size_t i = 0; i < quotas.count && i < periods.count; i++)
        lower_processors(quotas.number[i], periods.number[i], processors);
    return true;
}

void un_group_limits(const struct un_groups *groups, struct un_group_limits *limits)
{
    *limits = (struct un_group_limits){.memory = UINT64_MAX, .processors = UINT64_MAX};
    if (!visit_groups(groups, "memory", "memory.stat", lower_by_memory_stat, &limits->memory))
        visit_groups(groups, "", "memory.max", lower_by_memory_max, &limits->memory);
    if (!lower_by_quotas(groups, &limits->processors))
        visit_groups(groups, "", "cpu.max", lower_by_max, &limits->processors);
}

void un_limit_to_machine(struct un_group_limits *limits)
{
    int64_t kib = un_field_number("/proc/meminfo", "MemTotal:");
    if (kib >= 0 && (uint64_t)kib << 10 < limits->memory)
        limits->memory = (uint64_t)kib << 10;
    uint64_t processors = un_processors();
    if (processors < limits->processors)
        limits->processors = processors;
}

void un_seen_limits(struct un_group_limits *limits)
{
    un_group_limits(&un_groups_here, limits);
    un_limit_to_machine(limits);
}

const char *un_mib_text(uint64_t bytes, char text[UN_MIB_ROOM])
{
    uint64_t tenths = (bytes >> 20) * 10 + ((bytes & ((1 << 20) - 1)) * 10 >> 20);
    snprintf(text, UN_MIB_ROOM, "%" PRIu64 ".%" PRIu64 " MiB", tenths / 10, tenths % 10);
    return text;
}
