#include "base/base.h"
#include "explain/explain.h"
#include "facts/facts.h"

/* Size in bytes of a buffer for the files that un_limit_open() opens. The largest is
 * /proc/vmstat. */
#define COUNTS_MAX (1 << 14)

/* For each limit, the file that counts how often the limit was reached: files[0] in cgroups v1,
 * files[1] in cgroups v2. */
static const struct {
    const char *controller;
    const char *files[2];
    const char *field;
    const char *cause;
} limits[UN_LIMIT_COUNT] = {
    [UN_LIMIT_MEMORY] = {"memory",
                         {"memory.oom_control", "memory.events"},
                         "\noom_kill ",
                         "out-of-memory"},
    [UN_LIMIT_PIDS] = {"pids", {"pids.events", "pids.events"}, "\nmax ", "process-limit"},
};

int un_limit_open(enum un_limit limit, int *version)
{
    const char *controller = limits[limit].controller;
    int fd = un_group_open(&un_groups_here, controller, limits[limit].files, version);
    /* The root control group has no file that counts OOM kills. If this process is in the root
     * control group, use the count for the whole host instead (/proc/vmstat, since Linux 4.13). */
    if (fd < 0 && limit == UN_LIMIT_MEMORY) {
        *version = 0;
        fd = openat(AT_FDCWD, "/proc/vmstat", O_RDONLY | O_CLOEXEC);
    }
    return fd;
}

uint64_t un_limit_count(enum un_limit limit, int fd)
{
    char text[COUNTS_MAX];
    uint64_t count = 0;
    /* gcc assumes that pread(2) fills the whole array, whatever the size argument is.
     * NOLINTNEXTLINE(analyzer-out-of-bounds) */
    ssize_t length = fd < 0 ? -1 : pread(fd, text + 1, sizeof text - 2, 0);
    *text = '\n';
    text[length < 0 ? 1 : length + 1] = '\0';
    const char *line = strstr(text, limits[limit].field);
    if (line)
        un_number_read(line + strlen(limits[limit].field), UINT64_MAX, &count);
    return count;
}

uint64_t un_limit_hits(enum un_limit limit)
{
    int version;
    un_auto_close int fd = un_limit_open(limit, &version);
    return un_limit_count(limit, fd);
}

uint64_t un_oom_kills(void)
{
    return un_limit_hits(UN_LIMIT_MEMORY);
}

uint64_t un_machine_oom_kills(void)
{
    int64_t kills = un_field_number("/proc/vmstat", "oom_kill ");
    return kills < 0 ? 0 : (uint64_t)kills;
}

static bool read_pids(const char *file, uint64_t *number)
{
    return un_group_number(&un_groups_here, "pids", (const char *const[]){file, file}, number);
}

uint64_t un_pids_left(void)
{
    uint64_t most, used;
    if (!read_pids("pids.max", &most) || !read_pids("pids.current", &used))
        return UINT64_MAX;
    return most > used ? most - used : 0;
}

const char *un_limit_cause(enum un_limit limit)
{
    return limits[limit].cause;
}
