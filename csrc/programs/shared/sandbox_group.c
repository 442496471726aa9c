/*
 * The control groups of a sandbox, which enforce its limits.
 *
 * The watcher creates the groups, and its child enters them before the execve(2) of runsc, so all
 * processes of the sandbox are in the groups from their start. With cgroups v1, there is one group
 * per controller; with v2, one group for all controllers. Programs in the sandbox can't see these
 * groups.
 */
#include "base/base.h"
#include "facts/facts.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define PERIOD_US 100000
/* Maximum number of attempts to create a cgroup. Another process may remove a new cgroup before
 * this process has locked it (un_group_sweep()). */
#define TRIES_MAX 32
/* Timeout in ms for removing a cgroup. A killed process stays in its cgroup until the process's
 * memory is released and the process is reaped. */
#define REMOVE_MS 5000
/* Timeout in ms for locking a new cgroup. Another process may hold the lock for a short time
 * (un_group_sweep()). */
#define LOCK_MS 1000

void sandbox_group_init(struct sandbox_group *group)
{
    for (int part = 0; part < UN_GROUP_PARTS; part++)
        group->place[part] = group->dir[part] = -1;
}

bool sandbox_group_has(const struct sandbox_group *group, enum un_group_part part)
{
    return group->dir[part] >= 0;
}

static int write_number(int dir, const char *file, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    return un_group_write(dir, file, text);
}

/* Writes a number to a file of a control group. Returns 0 on success, and also if the file does not
 * exist, like the file for swap on a kernel without swap accounting. Otherwise returns -1 with
 * errno set. */
static int write_optional(int dir, const char *file, uint64_t number)
{
    return write_number(dir, file, number) && errno != ENOENT ? -1 : 0;
}

static int limit_memory(int dir, int version, uint64_t bytes)
{
    if (version == 1)
        return write_number(dir, "memory.limit_in_bytes", bytes) ||
                       write_optional(dir, "memory.memsw.limit_in_bytes", bytes)
                   ? -1
                   : 0;
    return write_number(dir, "memory.max", bytes) || write_optional(dir, "memory.swap.max", 0) ||
                   write_optional(dir, "memory.oom.group", 1)
               ? -1
               : 0;
}

static int limit_time(int dir, int version, uint64_t thousandths)
{
    char text[48];
    uint64_t quota = thousandths * (PERIOD_US / 1000);
    if (version == 1)
        return write_number(dir, "cpu.cfs_period_us", PERIOD_US) ||
                       write_number(dir, "cpu.cfs_quota_us", quota)
                   ? -1
                   : 0;
    snprintf(text, sizeof text, "%" PRIu64 " %d", quota, PERIOD_US);
    return un_group_write(dir, "cpu.max", text);
}

static int limit_part(const struct sandbox_group *group, enum un_group_part part,
                      const struct un_limits *limits)
{
    int dir = group->dir[part], version = group->version[part];
    switch (part) {
    case UN_GROUP_MEMORY:
        return limit_memory(dir, version, limits->memory);
    case UN_GROUP_PIDS:
        return write_number(dir, "pids.max", limits->pids);
    case UN_GROUP_CPU:
    default:
        return limit_time(dir, version, limits->quota);
    }
}

static int lock_group(int dir)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    int failed;
    int64_t deadline = un_now_ms() + LOCK_MS;
    while ((failed = flock(dir, LOCK_EX | LOCK_NB)) && errno == EWOULDBLOCK &&
           un_now_ms() < deadline)
        nanosleep(&pause, NULL);
    return failed;
}

/* Creates the control group `name` in the directory `place`, with a mode that prevents other users
 * from locking it, and locks it. Returns a descriptor of the group's directory, or -1 with errno
 * set. ENOENT means that another process has removed the group or `place`. */
static int make_locked(int place, const char *name)
{
    if (mkdirat(place, name, 0700))
        return -1;
    int dir = openat(place, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir >= 0 && !lock_group(dir) && !faccessat(place, name, F_OK, 0))
        return dir;
    int errnum = errno;
    un_close_quietly(dir);
    unlinkat(place, name, AT_REMOVEDIR);
    errno = errnum;
    return -1;
}

/* Returns an earlier member of enum un_group_part whose control group also limits the resource
 * `part`, or -1 if no earlier member has such a group. */
static int shared_part(const struct sandbox_group *group, int part)
{
    for (int other = 0; group->version[part] == 2 && other < part; other++)
        if (group->dir[other] >= 0 && group->version[other] == 2)
            return other;
    return -1;
}

/* Creates the control group for the resource `part`, or duplicates the descriptor of a group that
 * already limits `part` (shared_part()). Returns 0, or -1 with errno set. */
static int make_dir(struct sandbox_group *group, enum un_group_part part)
{
    int place = un_group_place(&un_groups_here, part, &group->version[part]);
    group->place[part] = place;
    if (place < 0 || un_group_prepare(place, part, group->version[part]))
        return -1;
    un_group_sweep(place);
    int other = shared_part(group, (int)part);
    group->dir[part] =
        other < 0 ? make_locked(place, group->name) : fcntl(group->dir[other], F_DUPFD_CLOEXEC, 3);
    return group->dir[part] < 0 ? -1 : 0;
}

static int make_part(struct sandbox_group *group, enum un_group_part part,
                     const struct un_limits *limits)
{
    int failed = make_dir(group, part);
    for (int i = 1; i < TRIES_MAX && failed && errno == ENOENT; i++) {
        un_close_quietly(group->place[part]);
        failed = make_dir(group, part);
    }
    return failed ? -1 : limit_part(group, part, limits);
}

int sandbox_group_make(struct sandbox_group *group, const struct un_limits *limits,
                       struct un_error *err)
{
    uint64_t number;
    sandbox_group_init(group);
    if (!limits->groups)
        return 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        return un_fail_errno(err, UN_STEP_SANDBOX, "getrandom");
    snprintf(group->name, sizeof group->name, UN_GROUP_PREFIX "%016" PRIx64, number);
    for (int part = 0; part < UN_GROUP_PARTS; part++) {
        if (!(limits->groups & 1U << part) || !make_part(group, (enum un_group_part)part, limits))
            continue;
        int errnum = errno;
        sandbox_group_remove(group);
        return un_fail(err, UN_STEP_SANDBOX, errnum, "limit-unenforceable",
                       "the control group of the sandbox can't be created");
    }
    return 0;
}

int sandbox_group_enter(const struct sandbox_group *group)
{
    for (int part = 0; part < UN_GROUP_PARTS; part++)
        if (group->dir[part] >= 0 && un_group_write(group->dir[part], "cgroup.procs", "0"))
            return -1;
    return 0;
}

/* Kills the process `pid`, which was found in the control group whose directory is open as *arg.
 * Since the pid may have been reused before the pidfd was opened, first checks that the group still
 * contains the pid. Returns false, so that un_group_any_process() continues. */
static bool kill_process(pid_t pid, void *arg)
{
    const int *dir = arg;
    un_auto_close int pidfd = un_pidfd_open(pid);
    if (pidfd >= 0 && un_group_has_process(*dir, pid))
        un_kill(pidfd);
    return false;
}

/* Kills all processes in the control group whose directory is open as `dir`. */
static void kill_group(int dir)
{
    if (un_group_write(dir, "cgroup.kill", "1"))
        un_group_any_process(dir, kill_process, &dir);
}

static void remove_part(const struct sandbox_group *group, int part, int64_t deadline)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    while (unlinkat(group->place[part], group->name, AT_REMOVEDIR) && errno == EBUSY &&
           un_now_ms() < deadline) {
        kill_group(group->dir[part]);
        nanosleep(&pause, NULL);
    }
}

void sandbox_group_remove(struct sandbox_group *group)
{
    int64_t deadline = un_now_ms() + REMOVE_MS;
    for (int part = 0; part < UN_GROUP_PARTS; part++) {
        if (group->dir[part] >= 0)
            remove_part(group, part, deadline);
        un_close_quietly(group->dir[part]);
        if (group->place[part] >= 0)
            un_group_release(group->place[part], group->version[part]);
        group->dir[part] = group->place[part] = -1;
    }
}

/* ---- reading the resource usage of the sandbox ----------------------------------------------- */

static uint64_t read_number(int dir, const char *file)
{
    char text[64];
    uint64_t number = 0;
    if (un_read_file(dir, file, text, sizeof text) > 0)
        un_number_read(text, INT64_MAX, &number);
    return number;
}

int sandbox_group_open_kills(const struct sandbox_group *group, int *version)
{
    static const char *const files[] = {NULL, "memory.oom_control", "memory.events"};
    *version = group->version[UN_GROUP_MEMORY];
    return openat(group->dir[UN_GROUP_MEMORY], files[*version], O_RDONLY | O_CLOEXEC);
}

uint64_t sandbox_group_peak(const struct sandbox_group *group)
{
    static const char *const files[] = {NULL, "memory.max_usage_in_bytes", "memory.peak"};
    return read_number(group->dir[UN_GROUP_MEMORY], files[group->version[UN_GROUP_MEMORY]]);
}

bool sandbox_group_refused(const struct sandbox_group *group)
{
    char text[256];
    uint64_t count = 0;
    if (!sandbox_group_has(group, UN_GROUP_PIDS) ||
        un_read_file(group->dir[UN_GROUP_PIDS], "pids.events", text, sizeof text) < 0 ||
        !un_begins(text, "max "))
        return false;
    un_number_read(text + 4, INT64_MAX, &count);
    return count;
}
