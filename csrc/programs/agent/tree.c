/*
 * Killing all descendants of a subreaper.
 *
 * An orphan is reparented to the nearest ancestor that is a subreaper (PR_SET_CHILD_SUBREAPER), so
 * a subreaper without children (ECHILD) has no descendants.
 *
 * A list of processes from /proc may be outdated as soon as it is read, so listing and killing are
 * repeated until no child remains. If a fork bomb creates processes faster than /proc can be
 * listed, all processes of the sandbox are stopped for the time of the listing.
 */
#include "base/base.h"
#include "programs/agent/agent.h"

#include <linux/magic.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>

/* Maximum number of processes in one listing. After the listed processes were killed, later
 * listings find the others. */
#define PROCESSES_MAX 8192
/* Upper bound of pids. gVisor has at most 65,536 tasks, and Linux, on which the tests run, has pids
 * below 4,194,304. */
#define PIDS (1 << 22)
/* Number of rounds of killing before the agent stops all processes. */
#define ROUNDS_ALONE 3
/* Timeout in ms for listing the processes in the first round. In round N, the timeout is N times as
 * long, because a listing is slow if very many processes compete for the CPU. */
#define LISTING_MS 50
/* Number of processes to list before the clock is read again. */
#define LISTING_PART 4
/* Maximum number of attempts to stop all processes. Several may be needed, because a process that
 * is in fork(2) stops only after the fork. */
#define STOPS_MAX 64
/* Delay in ns between two attempts to stop all processes. */
#define STOP_DELAY 1000000
/* Shortest delay in ns between two rounds of killing. */
#define DELAY_MIN 100000
/* Longest delay in ns between two rounds of killing. */
#define DELAY_MAX 20000000

struct process {
    pid_t pid;
    pid_t parent;
    pid_t group;
    char state;
    bool below; /* whether mark() has marked the process as a descendant */
};

/* A listing of processes from /proc, in a memory mapping of its own, because several keepers may
 * list processes at the same time. */
struct listing {
    size_t count;
    int64_t end;  /* deadline of the listing in ms of CLOCK_MONOTONIC, or 0 for no deadline */
    bool is_late; /* whether the listing was cut short by the deadline */
    struct process processes[PROCESSES_MAX];
    uint64_t below[PIDS / 64];
};

static bool is_marked_below(const struct listing *listing, pid_t pid)
{
    return pid > 0 && pid < PIDS && listing->below[pid / 64] >> pid % 64 & 1;
}

static void mark_below(struct listing *listing, pid_t pid)
{
    listing->below[pid / 64] |= UINT64_C(1) << pid % 64;
}

static int64_t milliseconds(void)
{
    struct timespec now = {0, 0};
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now, 0, 0, 0);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_ns(long nanoseconds)
{
    const struct timespec time = {.tv_nsec = nanoseconds};
    syscall(SYS_nanosleep, &time, NULL, 0, 0, 0);
}

/* Returns whether `proc` is a proc filesystem with the pids of this PID namespace: its link "self"
 * then has the pid of this process as target (proc(5)). */
static bool has_own_pids(int proc)
{
    struct statfs fs;
    char target[32];
    uint64_t pid;
    if (fstatfs(proc, &fs) || (uint64_t)fs.f_type != PROC_SUPER_MAGIC)
        return false;
    long size = syscall(SYS_readlinkat, proc, "self", target, sizeof target - 1, 0, 0);
    if (size <= 0)
        return false;
    target[size] = '\0';
    const char *end = un_number_read(target, PIDS - 1, &pid);
    return end && !*end && (pid_t)pid == getpid();
}

int agent_open_proc(void)
{
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0 || has_own_pids(proc))
        return proc;
    close(proc);
    return -1;
}

static const char *read_stat_id(const char *text, pid_t *id)
{
    uint64_t number = 0;
    text = text ? un_number_read(text, PIDS - 1, &number) : NULL;
    *id = (pid_t)number;
    return text && *text == ' ' ? text + 1 : NULL;
}

/* Reads the state, parent and process group of a process from /proc/PID/stat, whose format is "PID
 * (NAME) STATE PARENT GROUP ..." with an arbitrary NAME. Returns false if the process has exited,
 * or if the file is malformed. */
static bool read_process(int proc, const char *name, struct process *found)
{
    char path[32], text[512];
    size_t length = strnlen(name, sizeof path - sizeof "/stat");
    memcpy(path, name, length);
    memcpy(path + length, "/stat", sizeof "/stat");
    int file = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    if (size <= 0)
        return false;
    text[size] = '\0';
    const char *at = NULL;
    for (const char *letter = text; *letter; letter++)
        if (*letter == ')')
            at = letter;
    if (!at || at[1] != ' ' || !at[2] || at[3] != ' ')
        return false;
    found->state = at[2];
    at = read_stat_id(at + 4, &found->parent);
    return read_stat_id(at, &found->group) != NULL;
}

struct reading {
    struct listing *listing;
    int proc;
};

static bool add_process(const char *name, void *arg)
{
    const struct reading *reading = arg;
    struct listing *listing = reading->listing;
    uint64_t pid;
    const char *end = un_number_read(name, PIDS - 1, &pid);
    struct process *found = &listing->processes[listing->count];
    if (!end || *end || !pid || !read_process(reading->proc, name, found))
        return true;
    found->pid = (pid_t)pid;
    found->below = false;
    if (++listing->count % LISTING_PART == 0 && listing->end && milliseconds() > listing->end)
        listing->is_late = true;
    return listing->count < PROCESSES_MAX && !listing->is_late;
}

/* Marks the descendants of `root` in the listing, except the children for which `spared` returns
 * true, and the descendants of these children. */
static void mark(struct listing *listing, pid_t root, agent_spared *spared, void *arg)
{
    mark_below(listing, root);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < listing->count; i++) {
            struct process *one = &listing->processes[i];
            if (one->below || one->pid == root || !is_marked_below(listing, one->parent) ||
                (spared && spared(one->pid, arg)))
                continue;
            one->below = more = true;
            mark_below(listing, one->pid);
        }
    }
}

static bool is_ended(const struct process *one)
{
    return one->state == 'Z' || one->state == 'X';
}

static bool is_process_stopped(const struct process *one)
{
    return one->state == 'T' || one->state == 't';
}

static void unmap_listing(struct listing *listing)
{
    munmap(listing, sizeof *listing);
}

/* Lists processes until the deadline `end`, and marks the descendants of `root`. The caller must
 * free the listing by unmap_listing(). Returns NULL if /proc can't be read. */
static struct listing *list_processes(int proc, pid_t root, int64_t end, agent_spared *spared,
                                      void *arg)
{
    if (proc < 0)
        return NULL;
    struct listing *listing = mmap(NULL, sizeof *listing, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (listing == MAP_FAILED)
        return NULL;
    listing->end = end;
    struct reading reading = {.listing = listing, .proc = proc};
    agent_each_entry(proc, ".", add_process, &reading);
    if (listing->count) {
        mark(listing, root, spared, arg);
        return listing;
    }
    unmap_listing(listing);
    return NULL;
}

static void signal_below(const struct listing *listing, pid_t group, int sig)
{
    for (size_t i = 0; i < listing->count; i++) {
        const struct process *one = &listing->processes[i];
        if (one->below && (!group || one->group == group))
            kill(one->pid, sig);
    }
}

bool agent_signal_tree(int proc, pid_t group, int sig)
{
    struct listing *listing = list_processes(proc, getpid(), 0, NULL, NULL);
    if (!listing)
        return false;
    signal_below(listing, group, sig);
    unmap_listing(listing);
    return true;
}

/* Kills the children of this process, except those for which `spared` returns true, by trying all
 * pids, without /proc. The orphans of the killed children are reparented to this process, and
 * killed in the next round. Returns whether there was any child to kill. */
static bool kill_children_by_trial(agent_spared *spared, void *arg)
{
    siginfo_t none;
    bool any = false;
    for (pid_t pid = 2; pid < 1 << 16; pid++) {
        if (waitid(P_PID, (id_t)pid, &none, WEXITED | WNOHANG | WNOWAIT) ||
            (spared && spared(pid, arg)))
            continue;
        any = true;
        kill(pid, SIGKILL);
    }
    return any;
}

bool agent_kill_others(int proc, agent_spared *spared, void *arg)
{
    struct listing *listing = list_processes(proc, getpid(), 0, spared, arg);
    if (!listing)
        return kill_children_by_trial(spared, arg);
    bool any = false;
    for (size_t i = 0; i < listing->count; i++) {
        if (!listing->processes[i].below)
            continue;
        /* Count zombies, too, because a process that is a zombie by now may have forked after /proc
         * was read. */
        any = true;
        kill(listing->processes[i].pid, SIGKILL);
    }
    unmap_listing(listing);
    return any;
}

/* Returns whether each marked process in the listing has stopped or exited. */
static bool have_stopped(const struct listing *listing)
{
    for (size_t i = 0; i < listing->count; i++) {
        const struct process *one = &listing->processes[i];
        if (one->below && !is_process_stopped(one) && !is_ended(one))
            return false;
    }
    return true;
}

void agent_kill_while_stopped(int proc, pid_t root)
{
    struct listing *listing = NULL;
    for (int i = 0; i < STOPS_MAX; i++) {
        /* Repeat SIGSTOP, for processes that were forked after kill(2) had listed all processes. */
        for (int again = 0; again < 3; again++)
            kill(-1, SIGSTOP);
        listing = list_processes(proc, root, 0, NULL, NULL);
        if (!listing || have_stopped(listing) || i == STOPS_MAX - 1)
            break;
        unmap_listing(listing);
        sleep_ns(STOP_DELAY);
    }
    if (listing)
        signal_below(listing, 0, SIGKILL);
    kill(-1, SIGCONT);
    if (listing)
        unmap_listing(listing);
}

/* A summary of the descendants in one listing, to compare with the next listing. */
struct found {
    size_t count;
    uint64_t pids; /* sum of the descendants' pids */
    /* whether the descendants in this listing and in the previous one are the same, and all of them
     * are zombies that their tracer has not reaped */
    bool rest;
};

static void compare_listings(struct found *found, const struct listing *listing)
{
    struct found now = {.rest = true};
    for (size_t i = 0; i < listing->count; i++) {
        const struct process *one = &listing->processes[i];
        if (!one->below)
            continue;
        now.count++;
        now.pids += (uint64_t)one->pid;
        now.rest = now.rest && is_ended(one);
    }
    now.rest = now.rest && now.count && now.count == found->count && now.pids == found->pids;
    *found = now;
}

static bool is_group_below(const struct listing *listing, pid_t group)
{
    for (size_t i = 0; i < listing->count; i++)
        if (listing->processes[i].below && listing->processes[i].group == group)
            return true;
    return false;
}

/* Lists and kills the descendants of this process, and summarizes them in `found`. If a descendant
 * is in the process group `group`, kills the whole group at once. Returns false if the deadline
 * `end` has passed before all processes were listed. */
static bool kill_found(int proc, pid_t group, int64_t end, struct found *found)
{
    found->rest = false;
    if (milliseconds() > end)
        return false;
    struct listing *listing = list_processes(proc, getpid(), end, NULL, NULL);
    if (!listing) {
        kill_children_by_trial(NULL, NULL);
        return true;
    }
    bool in_time = !listing->is_late;
    if (in_time) {
        if (group && is_group_below(listing, group))
            kill(-group, SIGKILL);
        signal_below(listing, 0, SIGKILL);
        compare_listings(found, listing);
    }
    unmap_listing(listing);
    return in_time;
}

void agent_kill_tree(int proc, const struct agent_killing *how)
{
    long wait = DELAY_MIN;
    struct found found = {.rest = false};
    for (int round = 0; how->reap(how->arg); round++) {
        int64_t end = milliseconds() + LISTING_MS * (INT64_C(1) + round);
        bool is_ours = how->group && !*how->has_lost_leader;
        if (is_ours && !kill(-how->group, SIGKILL) && !how->reap(how->arg))
            return;
        /* If only zombies remain, because their tracers have not reaped them, do not stop all
         * processes: a stop would not make the tracers reap the zombies. */
        bool is_alone = found.rest || !how->get_help;
        bool is_listing = is_alone || round % (ROUNDS_ALONE + 1) != ROUNDS_ALONE;
        bool in_time =
            is_listing && kill_found(proc, how->group, is_alone ? INT64_MAX : end, &found);
        if (!how->reap(how->arg))
            return;
        if (!in_time && how->get_help)
            how->get_help(how->arg);
        sleep_ns(wait);
        if (wait < DELAY_MAX)
            wait *= 2;
    }
}
