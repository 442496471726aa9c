/*
 * Enforcing limits without control groups, by measuring the memory and the tasks of the sandbox.
 *
 * A measurement takes some microseconds (facts/usage.c). The next measurement follows before the
 * sandbox can exceed a limit by much, even if its programs allocate memory or start processes at
 * the highest possible rate.
 *
 * Each measurement reads the size of the memfd in which the sentry, gVisor's kernel, keeps the
 * memory of the sandbox. The page tables and the anonymous memory of known processes are read again
 * only after these processes have run for some milliseconds, because a process that has not run has
 * allocated nothing. The page tables of all processes count, because a process that maps files of
 * the host allocates page tables without the sentry.
 *
 * The watcher, the program that waits for the end of the sandbox, finds new processes by a walk
 * through the process tree of the sandbox. A walk takes longer than a measurement, so walks may
 * take only a small share of the watcher's time. No walk is needed while the kernel assigns no new
 * pid. If other programs on the host start processes, too, the watcher looks at the CPU time of the
 * sentry instead: a sentry that has hardly run has started hardly any processes.
 *
 * When the sentry restores a checkpoint, it replaces its memfd. So each measurement checks that the
 * sentry still has the known memfds, and each walk searches for memfds again.
 */
#include "base/base.h"
#include "explain/explain.h"
#include "facts/facts.h"
#include "programs/shared/shared.h"

#include <dirent.h>
#include <inttypes.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>

/* Interval in ms between two searches for the sentry. */
#define FIND_MS 20
/* Timeout in ms for finding the sentry. When the timeout has expired, the watcher kills the
 * sandbox. */
#define FOUND_MS 60000

/* Maximum number of bytes that programs can allocate in a millisecond on one or two processors;
 * each additional processor adds half as much. */
#define BYTES_PER_MS (3U << 20)
/* Number of bytes by which a sandbox may exceed its memory limit before the watcher notices. */
#define EXCESS (32U << 20)
/* Minimum time in ms between two checks of the limits. */
#define CHECK_MS_MIN 4
/* Maximum time in ms between two checks of the limits. */
#define CHECK_MS_MAX 1000
/* Minimum and maximum of the CPU time in microseconds that the known processes
 * (limit_watch.process) may use in total before their memory is measured again. Between these
 * bounds, the time is that in which the sandbox could allocate 1/BUSY_SHARE of the memory that is
 * left below the limit. */
#define BUSY_US_MIN 4000
#define BUSY_US_MAX 20000
#define BUSY_SHARE 8

/* CPU time in microseconds below which the sentry can have started only a few processes since the
 * last walk through the processes. The next walk is then postponed. The sentry of an idle sandbox
 * uses this time in 150 ms. */
#define START_US 4000
/* Maximum number of tasks that a sandbox is assumed to create in a millisecond. */
#define TASKS_PER_MS 2
/* Minimum time in ms until the next walk through the processes. */
#define WALK_MS_MIN 20
/* Maximum time in ms until a further walk is due, unless WALK_SHARE requires a longer time. */
#define WALK_MS_MAX 2000
/* Maximum time in ms between two walks through the process tree of an idle sandbox. */
#define IDLE_WALK_MS 5000
/* Walks through process trees may take at most 1/WALK_SHARE of the watcher's time. */
#define WALK_SHARE 50

/* The watcher checks for idleness at intervals of 1/IDLE_SHARE of the idle timeout, but of at least
 * IDLE_MS_MIN and at most IDLE_MS_MAX milliseconds. A sandbox is ended at most one such interval
 * after its idle timeout. */
#define IDLE_SHARE 10
#define IDLE_MS_MIN 50
#define IDLE_MS_MAX 10000

/* Maximum depth to which a walk descends in the process tree. The process tree of runsc is far less
 * deep. */
#define LEVELS_MAX 8

static int64_t clamp(int64_t number, int64_t least, int64_t most)
{
    return number < least ? least : number > most ? most : number;
}

/* Returns the maximum number of bytes that a sandbox can allocate in a millisecond. */
static uint64_t growth_of(const struct un_limits *limits)
{
    cpu_set_t set;
    int64_t count =
        sched_getaffinity(0, sizeof set, &set) ? sysconf(_SC_NPROCESSORS_ONLN) : CPU_COUNT(&set);
    if (limits->processors && (int64_t)limits->processors < count)
        count = (int64_t)limits->processors;
    return (uint64_t)clamp(count, 2, INT32_MAX) * (BYTES_PER_MS / 2);
}

void limit_watch_begin(struct limit_watch *watch, const struct un_limits *limits)
{
    *watch = (struct limit_watch){.limits = *limits,
                                  .start = un_now_ms(),
                                  .walk_time = -1,
                                  .pids = -1,
                                  .last_pid = -1,
                                  .activity = -1,
                                  .bytes_per_ms = growth_of(limits)};
    /* Do not enforce the memory limit here if a control group does. */
    watch->most_memory = limits->groups & 1U << UN_GROUP_MEMORY ? 0 : limits->memory;
    watch->is_bound = limits->groups & 1U << UN_GROUP_PIDS;
    watch->measures = watch->most_memory || (limits->pids && !watch->is_bound);
    if (watch->measures)
        watch->pids = un_open_last_pid();
}

int limit_watch_interval(const struct limit_watch *watch)
{
    int64_t now = un_now_ms(), next = INT64_MAX;
    if (watch->measures)
        next = watch->next_check;
    if (watch->limits.timeout && watch->start + (int64_t)watch->limits.timeout < next)
        next = watch->start + (int64_t)watch->limits.timeout;
    if (watch->activity >= 0 && watch->active && watch->next_idle < next)
        next = watch->next_idle;
    if (next == INT64_MAX)
        return -1;
    return next <= now ? 0 : next - now > INT32_MAX ? INT32_MAX : (int)(next - now);
}

int limit_watch_idle(struct limit_watch *watch, const char *directory, struct un_error *err)
{
    char path[UN_PATH_MAX];
    if (!watch->limits.idle)
        return 0;
    if (!un_path_join(path, directory, "activity"))
        watch->activity =
            open(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    return watch->activity < 0 ? un_fail_errno(err, UN_STEP_SANDBOX, "activity") : 0;
}

/* Returns whether no command has run for the idle timeout. If so, keeps the file "activity" locked,
 * so that no new command can start. */
static bool is_idle(struct limit_watch *watch)
{
    struct stat status;
    int64_t idle = (int64_t)watch->limits.idle;
    bool has_lock = !flock(watch->activity, LOCK_EX | LOCK_NB);
    int64_t now = un_now_ms();
    if (!has_lock)
        watch->active = now;
    /* The modification time is set to times of CLOCK_MONOTONIC (limit_watch_idle()). Ignore the
     * modification time of a new file, which is a CLOCK_REALTIME time, and therefore later than
     * `now`. */
    else if (!fstat(watch->activity, &status)) {
        int64_t end = status.st_mtim.tv_sec * 1000 + status.st_mtim.tv_nsec / 1000000;
        if (end > watch->active && end <= now)
            watch->active = end;
    }
    if (has_lock && now - watch->active >= idle)
        return true;
    if (has_lock)
        flock(watch->activity, LOCK_UN);
    /* Check the lock of the file "activity" at intervals, because a program that is killed while it
     * runs a command can't set the modification time. The command then counts as running until the
     * last check that found the file locked. */
    watch->next_idle = now + clamp(idle / IDLE_SHARE, IDLE_MS_MIN, IDLE_MS_MAX);
    if (has_lock && watch->active + idle < watch->next_idle)
        watch->next_idle = watch->active + idle;
    return false;
}

/* Returns whether RLIMIT_NPROC applies to each user namespace separately, as in Linux since 5.14.
 * Older kernels count all processes of a user. */
static bool counts_by_namespace(void)
{
    struct utsname name;
    uint64_t major = 0, minor = 0;
    const char *at = uname(&name) ? NULL : un_number_read(name.release, INT32_MAX, &major);
    if (at && *at)
        un_number_read(at + 1, INT32_MAX, &minor);
    return major > 5 || (major == 5 && minor >= 14);
}

/* Returns whether uid 0 of this user namespace is, or may be, root of the host. RLIMIT_NPROC does
 * not limit the processes of the host's root. */
static bool is_real_root(void)
{
    char text[64] = "";
    uint64_t inside, outside;
    un_read_file(AT_FDCWD, "/proc/self/uid_map", text, sizeof text);
    const char *at = un_number_read(text + strspn(text, " "), UINT32_MAX, &inside);
    return !at || !un_number_read(at + strspn(at, " "), UINT32_MAX, &outside) || !outside;
}

/* Sets RLIMIT_NPROC for the process `pid`, which is the sentry or one of its descendants, and for
 * the descendants of `pid`. The limit applies to the tasks of one sandbox, because each sentry has
 * its own user namespace. The kernel does not apply the limit to the host's root, whose tasks only
 * the watcher counts. Returns false, so that un_any_child() continues. */
static bool limit_tasks(pid_t pid, void *arg)
{
    const struct limit_watch *watch = arg;
    const struct rlimit limit = {.rlim_cur = watch->limits.pids, .rlim_max = watch->limits.pids};
    bool ignored;
    /* Ignore a failure, which means that the process has exited. The watcher also counts the
     * tasks. */
    prlimit(pid, RLIMIT_NPROC, &limit, NULL);
    return un_any_child(pid, limit_tasks, arg, &ignored);
}

static bool find_sentry(pid_t pid, void *arg)
{
    struct limit_watch *watch = arg;
    if (!un_memory_files_open(pid, &watch->files))
        return false;
    watch->sentry = pid;
    bool has_rlimit = watch->limits.pids && !watch->is_bound && counts_by_namespace();
    /* Set the limit repeatedly, because a process that was forked in the previous round may have
     * inherited the old limit. */
    for (int i = 0; i < 3 && has_rlimit; i++)
        limit_tasks(pid, watch);
    watch->is_bound = watch->is_bound || (has_rlimit && !is_real_root());
    return true;
}

/* The state of a walk through the process tree of a sandbox. */
struct walk {
    struct limit_watch *watch;
    bool is_inside; /* whether the walk has reached the sentry or one of its descendants */
    int level;
    uint64_t bytes;
    uint64_t tasks;
};

/* Returns the time in ms in which the usage grows from `used` to `limit` + `excess`, if it grows by
 * `per_ms` per millisecond. */
static int64_t time_left(uint64_t limit, uint64_t excess, uint64_t used, uint64_t per_ms)
{
    if (!limit)
        return INT32_MAX;
    return used >= limit + excess ? 0 : (int64_t)((limit + excess - used) / per_ms);
}

/* Returns the time in ms during which the sandbox can't exceed its memory limit plus EXCESS. */
static int64_t memory_time_left(const struct limit_watch *watch)
{
    return time_left(watch->most_memory, EXCESS, watch->memory, watch->bytes_per_ms);
}

static void read_limit_process(struct limit_process *process)
{
    process->time = un_processor_time(process->pid);
    process->bytes = un_private_memory(process->pid);
}

/* Measures the memory of the processes in watch->process, if they have used enough CPU time in
 * total since the last measurement. */
static void read_busy_processes(struct limit_watch *watch)
{
    int64_t busy = 0, wait = memory_time_left(watch) * 1000 / BUSY_SHARE;
    int64_t most = clamp(wait, BUSY_US_MIN, BUSY_US_MAX);
    for (size_t i = 0; i < watch->process_count; i++) {
        struct limit_process *process = &watch->process[i];
        int64_t time = process->time < 0 ? -1 : un_processor_time(process->pid);
        process->is_busy = time != process->time;
        busy += time < 0 && process->is_busy ? most : time - process->time;
    }
    for (size_t i = 0; i < watch->process_count && busy >= most; i++) {
        struct limit_process *process = &watch->process[i];
        uint64_t before = process->bytes;
        if (process->is_busy)
            read_limit_process(process);
        watch->others += process->bytes - before;
    }
}

static bool walk_process(pid_t pid, void *arg)
{
    struct walk *walk = arg;
    struct limit_watch *watch = walk->watch;
    struct limit_process process = {.pid = pid};
    bool was_inside = walk->is_inside, ignored;
    walk->is_inside = was_inside || pid == watch->sentry;
    read_limit_process(&process);
    walk->bytes += process.bytes;
    watch->has_all = watch->has_all && watch->process_count < LIMIT_PROCESSES;
    if (watch->has_all)
        watch->process[watch->process_count++] = process;
    walk->tasks += walk->is_inside ? un_task_count(pid) : 0;
    if (walk->level++ < LEVELS_MAX)
        un_any_child(pid, walk_process, walk, &ignored);
    walk->level--;
    walk->is_inside = was_inside;
    return false;
}

static bool counts_tasks(const struct limit_watch *watch)
{
    return watch->limits.pids && !watch->is_bound;
}

/* Returns whether the sandbox can have started only a few processes since the last walk through its
 * processes. */
static bool has_few_new_processes(const struct limit_watch *watch)
{
    int64_t time, last = un_last_pid(watch->pids);
    if (last >= 0 && last == watch->last_pid)
        return true;
    /* If this process is PID 1 of a PID namespace, that namespace contains only the sandbox, so the
     * sandbox has started the new process, whatever the CPU time of the sentry. */
    if (getpid() == 1 || counts_tasks(watch) || watch->walk_time < 0)
        return false;
    time = un_processor_time(watch->sentry);
    return time >= 0 && time - watch->walk_time < START_US;
}

/* Postpones the next walk through the processes, and returns true, if the sandbox can have started
 * only a few processes since the last walk. Otherwise returns false, because a walk is due now. A
 * walk is also due if the last one was at least IDLE_WALK_MS ms ago, or has found more than
 * LIMIT_PROCESSES processes. */
static bool postpone_walk(struct limit_watch *watch, int64_t now)
{
    if (!watch->has_all || now >= watch->last_walk + IDLE_WALK_MS || !has_few_new_processes(watch))
        return false;
    int64_t wait = memory_time_left(watch);
    watch->next_walk = now + clamp(wait, WALK_MS_MIN, WALK_MS_MAX);
    return true;
}

static void reopen_memory_files(struct limit_watch *watch)
{
    un_memory_files_close(&watch->files);
    un_memory_files_open(watch->sentry, &watch->files);
}

static void walk_processes(struct limit_watch *watch, pid_t parent)
{
    bool ignored;
    struct walk walk = {.watch = watch};
    int64_t own = un_processor_time(0);
    reopen_memory_files(watch);
    watch->last_walk = un_now_ms();
    watch->last_pid = un_last_pid(watch->pids);
    watch->walk_time = un_processor_time(watch->sentry);
    watch->process_count = 0;
    watch->has_all = true;
    un_any_child(parent, walk_process, &walk, &ignored);
    int64_t share = (un_processor_time(0) - own) * WALK_SHARE / 1000;
    watch->others = walk.bytes;
    watch->tasks = walk.tasks;
    uint64_t pids = counts_tasks(watch) ? watch->limits.pids : 0;
    int64_t memory = memory_time_left(watch);
    int64_t tasks = time_left(pids, 0, watch->tasks, TASKS_PER_MS);
    int64_t least = share > WALK_MS_MIN ? share : WALK_MS_MIN;
    watch->next_walk = un_now_ms() + clamp(memory < tasks ? memory : tasks, least,
                                           least > WALK_MS_MAX ? least : WALK_MS_MAX);
}

void limit_describe_memory(const struct un_limits *limits, uint64_t bytes, struct un_end *end)
{
    char limit[UN_MIB_ROOM], used[UN_MIB_ROOM];
    *end = (struct un_end){.reason = "memory-limit", .limit = limits->memory, .used = bytes};
    snprintf(end->text, sizeof end->text,
             "the sandbox was ended: it used %s of memory, and its limit is %s",
             un_mib_text(end->used, used), un_mib_text(end->limit, limit));
}

static bool describe_tasks(const struct limit_watch *watch, uint64_t tasks, struct un_end *end)
{
    *end = (struct un_end){.reason = "pids-limit", .limit = watch->limits.pids, .used = tasks};
    snprintf(end->text, sizeof end->text,
             "the sandbox was ended: it had %" PRIu64 " processes and threads, and its limit is "
             "%" PRIu64,
             end->used, end->limit);
    return true;
}

static bool describe_timeout(const struct limit_watch *watch, int64_t now, struct un_end *end)
{
    *end = (struct un_end){.reason = "timeout",
                           .limit = watch->limits.timeout,
                           .used = (uint64_t)(now - watch->start)};
    snprintf(end->text, sizeof end->text,
             "the sandbox was ended: it ran for %" PRIu64 ".%03" PRIu64
             " s, and its time limit is %" PRIu64 ".%03" PRIu64 " s",
             end->used / 1000, end->used % 1000, end->limit / 1000, end->limit % 1000);
    return true;
}

static bool describe_idleness(const struct limit_watch *watch, int64_t now, struct un_end *end)
{
    *end = (struct un_end){.reason = "idle-timeout",
                           .limit = watch->limits.idle,
                           .used = (uint64_t)(now - watch->active)};
    snprintf(end->text, sizeof end->text,
             "the sandbox was ended: no command ran for %" PRIu64 ".%03" PRIu64
             " s; its idle timeout is %" PRIu64 ".%03" PRIu64 " s",
             end->used / 1000, end->used % 1000, end->limit / 1000, end->limit % 1000);
    return true;
}

/* Describes in `end` that the watcher has killed the sandbox because the watcher did not find the
 * sentry, and so could not enforce the limits. */
static bool describe_blindness(struct un_end *end)
{
    *end = (struct un_end){.reason = "limit-unenforceable"};
    snprintf(end->text, sizeof end->text,
             "the sandbox was ended: the memory of gVisor's kernel was not found in /proc");
    return true;
}

bool limit_watch_check(struct limit_watch *watch, pid_t parent, struct un_end *end)
{
    bool ignored;
    int64_t now = un_now_ms();
    if (watch->limits.timeout && now - watch->start >= (int64_t)watch->limits.timeout)
        return describe_timeout(watch, now, end);
    if (watch->activity >= 0 && watch->active && now >= watch->next_idle && is_idle(watch))
        return describe_idleness(watch, un_now_ms(), end);
    if (!watch->measures || now < watch->next_check)
        return false;
    if (!watch->sentry && !un_any_child(parent, find_sentry, watch, &ignored)) {
        watch->next_check = now + FIND_MS;
        return now - watch->start > FOUND_MS && describe_blindness(end);
    }
    if (now >= watch->next_walk && !postpone_walk(watch, now))
        walk_processes(watch, parent);
    else
        read_busy_processes(watch);
    if (!un_memory_files_are_open(watch->sentry, &watch->files))
        reopen_memory_files(watch);
    watch->memory = un_memory_files_size(&watch->files) + watch->others;
    watch->peak = watch->memory > watch->peak ? watch->memory : watch->peak;
    /* Measure again soon if no memfd was found: during a restore, the sentry may have closed its
     * old memfd, but not yet created the new one. */
    int64_t wait = watch->files.count ? memory_time_left(watch) : CHECK_MS_MIN;
    watch->next_check = now + clamp(wait, CHECK_MS_MIN, CHECK_MS_MAX);
    if (watch->next_walk < watch->next_check)
        watch->next_check = watch->next_walk;
    if (watch->most_memory && watch->memory > watch->most_memory) {
        limit_describe_memory(&watch->limits, watch->memory, end);
        return true;
    }
    return watch->limits.pids && watch->tasks >= watch->limits.pids &&
           describe_tasks(watch, watch->tasks, end);
}

bool limit_watch_judge(const struct limit_watch *watch, bool refused, const char *errors,
                       const char *crash, const char *debug, struct un_end *end)
{
    struct un_runsc_logs logs;
    struct un_runsc_failure failure = {.has_cause = false};
    struct un_error err;
    if (!watch->limits.pids || un_runsc_logs_read(errors, crash, debug, &logs))
        return false;
    /* If several causes match runsc's message, prefer the limit on tasks, provided that the sandbox
     * has used more than half of that limit. */
    const char *limit = watch->tasks > watch->limits.pids / 2 ? un_limit_cause(UN_LIMIT_PIDS) : "";
    bool is_limit =
        refused ||
        (logs.reason && !un_runsc_explain(logs.reason, limit, "", 0, "/proc", &failure, &err) &&
         failure.has_cause && !strcmp(failure.cause.id, un_limit_cause(UN_LIMIT_PIDS)));
    is_limit = is_limit && !logs.has_ended;
    un_runsc_logs_free(&logs);
    return is_limit && describe_tasks(watch, watch->limits.pids, end);
}
