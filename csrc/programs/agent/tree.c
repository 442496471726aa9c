/*
 * Who loses a parent becomes the child of the nearest subreaper above (PR_SET_CHILD_SUBREAPER), so
 * a subreaper without children has no descendants: that is certain, and the kernel says so
 * (ECHILD). Who they are is read from /proc, and may have changed when it has been read. So they
 * are first all stopped, so that nothing new comes of them, and looked for again; then killed.
 */
#include "programs/agent/tree.h"
#include "base/number.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

/* As many as are looked at in one go: those that are left out are found in the next one. */
#define PROCESSES_MAX 8192
/* gVisor has 65,536 tasks at most, Linux (for the tests) ids up to 4,194,304. */
#define PIDS (1 << 22)
/* How often all are stopped before they are killed nevertheless: who makes processes faster than
 * we look at them is killed meanwhile. */
#define STOPS_MAX 16
/* Between two goes, in ns: what is killed takes a while to end. */
#define LONGEST_NAP 20000000

struct process {
    pid_t pid;
    pid_t parent;
    pid_t group;
    char state;
    bool below; /* it is a descendant */
};

/* One look at /proc. It is in memory of its own: several keepers may look at the same time. */
struct look {
    size_t count;
    struct process processes[PROCESSES_MAX];
    uint64_t below[PIDS / 64];
};

static bool has(const struct look *look, pid_t pid)
{
    return pid > 0 && pid < PIDS && look->below[pid / 64] >> pid % 64 & 1;
}

static void set(struct look *look, pid_t pid)
{
    look->below[pid / 64] |= UINT64_C(1) << pid % 64;
}

int agent_open_proc(void)
{
    struct statfs fs;
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return -1;
    if (!fstatfs(proc, &fs) && (uint64_t)fs.f_type == PROC_SUPER_MAGIC)
        return proc;
    close(proc);
    return -1;
}

static const char *read_id(const char *text, pid_t *id)
{
    uint64_t number = 0;
    text = text ? un_number_read(text, PIDS - 1, &number) : NULL;
    *id = (pid_t)number;
    return text && *text == ' ' ? text + 1 : NULL;
}

/* "PID (NAME) STATE PARENT GROUP ...": there may be anything in a name. */
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
    at = read_id(at + 4, &found->parent);
    return read_id(at, &found->group) != NULL;
}

static void add_entries(struct look *look, int proc, const char *entries, long size)
{
    const struct entry {
        uint64_t inode;
        int64_t next;
        unsigned short length;
        unsigned char type;
        char name[];
    } *entry;
    for (long at = 0; at < size && look->count < PROCESSES_MAX; at += entry->length) {
        entry = (const void *)(entries + at);
        uint64_t pid;
        const char *end = un_number_read(entry->name, PIDS - 1, &pid);
        struct process *found = &look->processes[look->count];
        if (!end || *end || !pid || !read_process(proc, entry->name, found))
            continue;
        found->pid = (pid_t)pid;
        found->below = false;
        look->count++;
    }
}

static void read_all(struct look *look, int proc)
{
    _Alignas(uint64_t) char entries[4096];
    /* One of its own: several of us read it, each from its beginning. */
    int dir = openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return;
    long size;
    while ((size = syscall(SYS_getdents64, dir, entries, sizeof entries, 0, 0)) > 0)
        add_entries(look, proc, entries, size);
    close(dir);
}

/* Marks those that are below the caller, but for those at whom `spared` says so, and whom they have
 * made. */
static void mark(struct look *look, agent_spared *spared, void *arg)
{
    pid_t self = getpid();
    set(look, self);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < look->count; i++) {
            struct process *one = &look->processes[i];
            if (one->below || one->pid == self || !has(look, one->parent) ||
                (spared && spared(one->pid, arg)))
                continue;
            one->below = more = true;
            set(look, one->pid);
        }
    }
}

/* NULL: /proc does not tell. To be unmapped. */
static struct look *look_below(int proc, agent_spared *spared, void *arg)
{
    if (proc < 0)
        return NULL;
    struct look *look = mmap(NULL, sizeof *look, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (look == MAP_FAILED)
        return NULL;
    read_all(look, proc);
    if (look->count) {
        mark(look, spared, arg);
        return look;
    }
    munmap(look, sizeof *look);
    return NULL;
}

bool agent_signal_tree(int proc, pid_t group, int sig)
{
    struct look *look = look_below(proc, NULL, NULL);
    if (!look)
        return false;
    for (size_t i = 0; i < look->count; i++) {
        const struct process *one = &look->processes[i];
        if (one->below && (!group || one->group == group))
            kill(one->pid, sig);
    }
    munmap(look, sizeof *look);
    return true;
}

/* Stops all: whether there was one that still ran. */
static bool stop_all(int proc)
{
    struct look *look = look_below(proc, NULL, NULL);
    if (!look)
        return false;
    bool ran = false;
    for (size_t i = 0; i < look->count; i++) {
        const struct process *one = &look->processes[i];
        if (!one->below || one->state == 'T' || one->state == 't' || one->state == 'Z')
            continue;
        ran = true;
        kill(one->pid, SIGSTOP);
    }
    munmap(look, sizeof *look);
    return ran;
}

bool agent_kill_others(int proc, agent_spared *spared, void *arg)
{
    struct look *look = look_below(proc, spared, arg);
    if (!look)
        return false;
    bool any = false;
    for (size_t i = 0; i < look->count; i++) {
        const struct process *one = &look->processes[i];
        if (!one->below || one->state == 'Z')
            continue;
        any = true;
        kill(one->pid, SIGKILL);
    }
    munmap(look, sizeof *look);
    return any;
}

/* Without /proc only our children are to be found, by trying: those who lose a parent by that are
 * the next ones. */
static void kill_children(void)
{
    siginfo_t none;
    for (pid_t pid = 2; pid < 1 << 16; pid++)
        if (!waitid(P_PID, (id_t)pid, &none, WEXITED | WNOHANG | WNOWAIT))
            kill(pid, SIGKILL);
}

void agent_kill_tree(int proc, agent_reaper *reap, void *arg)
{
    struct timespec moment = {.tv_nsec = 100000};
    while (reap(arg)) {
        for (int i = 0; i < STOPS_MAX && stop_all(proc); i++)
            continue;
        if (!agent_signal_tree(proc, 0, SIGKILL))
            kill_children();
        if (!reap(arg))
            return;
        syscall(SYS_nanosleep, &moment, NULL, 0, 0, 0);
        if (moment.tv_nsec < LONGEST_NAP)
            moment.tv_nsec *= 2;
    }
}
