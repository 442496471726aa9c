/*
 * Noticing that the kernel's OOM killer has killed a process of gVisor.
 *
 * The programs in the sandbox run in stubs, which are children of gVisor's kernel, the sentry. The
 * sentry does not notice if a stub is killed, and the programs then hang forever. Stubs never exit
 * by themselves: a stub without a program waits for the next program. So if there was an OOM kill
 * in the control group, and a child of the sentry is a zombie or was reaped, the sentry has lost a
 * stub.
 *
 * When a child is reaped, the kernel adds its page faults to the parent's cminflt in /proc/PID/stat
 * (proc_pid_stat(5)). By this value the watcher of the sentry recognizes a reaped stub. The
 * watchers of other sandboxes in the control group find no lost stub, and do not kill their
 * sandboxes.
 */
#include "base/base.h"
#include "explain/explain.h"
#include "facts/facts.h"
#include "programs/shared/shared.h"

#include <signal.h>

/* Number of checks for a killed process of gVisor after an OOM kill. One check would not suffice,
 * because the killed process may take some time to exit. */
#define CHECKS 40
/* Interval in ms between the checks after an OOM kill. */
#define CHECK_INTERVAL_MS 50
/* Number of checks after which an OOM kill has probably hit a process of another sandbox, if no
 * check has found a lost stub, that is, a killed child of gVisor's kernel. */
#define UNCERTAIN_CHECKS 20
/* Since the kernel counts memory in batches, a limit may count as reached while up to 1/ROUGHLY of
 * the limit is unused. */
#define ROUGHLY 20
/* Interval in ms at which the watcher reads the OOM kill counter if poll(2) can't report changes of
 * the counter, as with cgroups v1 for unprivileged processes. */
#define INTERVAL_MS 500

void oom_watch_begin(struct oom_watch *watch, const struct sandbox_group *group)
{
    int version;
    watch->is_own = sandbox_group_has(group, UN_GROUP_MEMORY);
    watch->fd = watch->is_own ? sandbox_group_open_kills(group, &version)
                              : un_limit_open(UN_LIMIT_MEMORY, &version);
    watch->has_events = version == 2;
    watch->is_machine = watch->fd >= 0 && !version;
    watch->kills = un_limit_count(UN_LIMIT_MEMORY, watch->fd);
    watch->checks = 0;
    watch->next = un_now_ms() + INTERVAL_MS;
}

int oom_watch_interval(const struct oom_watch *watch)
{
    if (watch->has_events && !watch->checks)
        return -1;
    int64_t left = watch->next - un_now_ms();
    return left < 0 ? 0 : (int)left;
}

bool oom_watch_explains(const struct oom_watch *watch, int status)
{
    /* A counter for the whole host mostly counts OOM kills of other programs, so it can explain
     * only an exit by SIGKILL. */
    if (!status || (watch->is_machine && status != 128 + SIGKILL))
        return false;
    return watch->checks > CHECKS - UNCERTAIN_CHECKS ||
           un_limit_count(UN_LIMIT_MEMORY, watch->fd) > watch->kills;
}

/* Values from /proc/PID/stat, by which has_lost_child() recognizes a lost child. */
struct facts_of_process {
    char state;
    bool has_reaped; /* whether the process has reaped a child */
};

/* Returns whether the `count` numbers that follow the next `skip` fields are 0. Sets *at to the
 * field after them. */
static bool are_zero(const char **at, int skip, int count)
{
    bool all = true;
    for (int i = 0; i < skip + count && *at; i++) {
        all = all && (i < skip || !strncmp(*at, "0 ", 2));
        *at = strchr(*at, ' ');
        *at += *at != NULL;
    }
    return all;
}

/* Reads /proc/PID/stat. Returns false if the process was reaped, or if the file can't be read. */
static bool read_process(pid_t pid, struct facts_of_process *process)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *at = un_proc_stat(AT_FDCWD, path, text, sizeof text);
    if (!at)
        return false;
    process->state = *at;
    /* The first call skips the fields state, ppid, pgrp, session, tty_nr, tpgid, flags and minflt,
     * and reads cminflt. The second skips majflt, and reads cmajflt. The third skips utime and
     * stime, and reads cutime and cstime (proc_pid_stat(5)). */
    bool faults = are_zero(&at, 8, 1), major = are_zero(&at, 1, 1), times = are_zero(&at, 2, 2);
    process->has_reaped = !(faults && major && times);
    return true;
}

static bool is_any(pid_t child, void *arg)
{
    (void)child, (void)arg;
    return true;
}

static bool is_zombie(pid_t child, void *arg)
{
    struct facts_of_process process;
    (void)arg;
    return read_process(child, &process) && process.state == 'Z';
}

/* Returns whether the process `pid` has children, and one of its children has exited or was reaped.
 * Ignores processes without children, such as the gofer, which reaps a child at its start. */
static bool has_lost_child(pid_t pid, void *arg)
{
    struct facts_of_process process;
    bool ignored;
    (void)arg;
    if (!read_process(pid, &process) || process.state == 'Z' ||
        !un_any_child(pid, is_any, NULL, &ignored))
        return false;
    return process.has_reaped || un_any_child(pid, is_zombie, NULL, &ignored);
}

/* Returns whether the mounted /proc belongs to the PID namespace of this process. */
static bool has_own_proc(void)
{
    char link[16] = "";
    return readlink("/proc/self", link, sizeof link - 1) > 0 && atoi(link) == getpid();
}

bool oom_watch_check(struct oom_watch *watch, pid_t parent)
{
    int64_t now = un_now_ms();
    /* Return early if the next check is not due. This function is also called when other limits are
     * checked, but a check soon after another would see the same processes. */
    if ((!watch->has_events || watch->checks) && now < watch->next)
        return false;
    watch->next = now + INTERVAL_MS;
    uint64_t kills = un_limit_count(UN_LIMIT_MEMORY, watch->fd);
    if (kills > watch->kills) {
        watch->kills = kills;
        watch->checks = CHECKS;
        if (watch->is_own)
            return true;
    }
    if (!watch->checks)
        return false;
    watch->checks--;
    watch->next = now + CHECK_INTERVAL_MS;
    bool failed = false,
         found = has_own_proc() && un_any_child(parent, has_lost_child, NULL, &failed);
    if (watch->is_machine)
        return found;
    /* If /proc belongs to another PID namespace, the processes can't be checked. In that case,
     * attribute every OOM kill to this sandbox. */
    return found || !has_own_proc() || (failed && !kill(parent, 0));
}

/* Reads the peak memory usage of this process's control group, or the current usage if the kernel
 * does not record the peak. Returns false if neither can be read. */
static bool read_use(uint64_t *bytes)
{
    static const char *const files[][2] = {{"memory.max_usage_in_bytes", "memory.peak"},
                                           {"memory.usage_in_bytes", "memory.current"}};
    for (int i = 0; i < 2; i++)
        if (un_group_number(&un_groups_here, "memory", files[i], bytes))
            return true;
    return false;
}

/* If the sandbox has reached its own memory limit, describes the limit in `end`, and returns true.
 * Otherwise returns false: the memory of an ancestor of the sandbox's control group was exhausted,
 * or no control group enforces the limit. */
static bool describe_own(const struct sandbox_group *group, const struct un_limits *limits,
                         struct un_end *end)
{
    uint64_t peak = sandbox_group_has(group, UN_GROUP_MEMORY) ? sandbox_group_peak(group) : 0;
    if (peak < limits->memory - limits->memory / ROUGHLY || !peak)
        return false;
    limit_describe_memory(limits, peak, end);
    return true;
}

void oom_describe(const struct sandbox_group *group, const struct un_limits *limits,
                  struct un_end *end)
{
    if (describe_own(group, limits, end))
        return;
    struct un_group_limits here;
    char limit[UN_MIB_ROOM], most[UN_MIB_ROOM];
    un_group_limits(&un_groups_here, &here);
    bool has_limit = here.memory < UINT64_MAX;
    *end = (struct un_end){
        .reason = un_limit_cause(UN_LIMIT_MEMORY),
        .limit = has_limit ? here.memory : 0,
    };
    bool has_use = has_limit && read_use(&end->used);
    int length = snprintf(end->text, sizeof end->text,
                          "the kernel killed a process of gVisor, since memory ran out");
    if (has_limit)
        length +=
            snprintf(end->text + length, sizeof end->text - (size_t)length,
                     "; the limit of the control group is %s", un_mib_text(here.memory, limit));
    if (has_use)
        snprintf(end->text + length, sizeof end->text - (size_t)length, ", of which %s were used",
                 un_mib_text(end->used, most));
}
