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

/* This program has but one thread, and no heap. */
static struct process processes[PROCESSES_MAX];
static uint64_t descendants[PIDS / 64];

static bool has(pid_t pid)
{
    return pid > 0 && pid < PIDS && descendants[pid / 64] >> pid % 64 & 1;
}

static void set(pid_t pid, bool on)
{
    uint64_t bit = UINT64_C(1) << pid % 64;
    if (on)
        descendants[pid / 64] |= bit;
    else
        descendants[pid / 64] &= ~bit;
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

static size_t add_entries(int proc, const char *entries, long size, size_t count)
{
    const struct dirent {
        uint64_t inode;
        int64_t next;
        unsigned short length;
        unsigned char type;
        char name[];
    } *entry;
    for (long at = 0; at < size && count < PROCESSES_MAX; at += entry->length) {
        entry = (const void *)(entries + at);
        uint64_t pid;
        const char *end = un_number_read(entry->name, PIDS - 1, &pid);
        struct process *found = &processes[count];
        if (!end || *end || !pid || !read_process(proc, entry->name, found))
            continue;
        found->pid = (pid_t)pid;
        found->below = false;
        count++;
    }
    return count;
}

/* Fills in `processes`: how many they are, or -1. */
static long look(int proc)
{
    _Alignas(uint64_t) char entries[4096];
    /* One of its own: several of us read it, each from its beginning. */
    int dir = proc < 0 ? -1 : openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -1;
    size_t count = 0;
    long size;
    while ((size = syscall(SYS_getdents64, dir, entries, sizeof entries, 0, 0)) > 0)
        count = add_entries(proc, entries, size, count);
    close(dir);
    return size < 0 && !count ? -1 : (long)count;
}

/* Marks those that are below the caller. */
static void mark(size_t count)
{
    pid_t self = getpid();
    set(self, true);
    bool more = true;
    while (more) {
        more = false;
        for (size_t i = 0; i < count; i++) {
            struct process *one = &processes[i];
            if (one->below || one->pid == self || !has(one->parent))
                continue;
            one->below = more = true;
            set(one->pid, true);
        }
    }
    set(self, false);
    for (size_t i = 0; i < count; i++)
        set(processes[i].pid, false);
}

bool agent_signal_tree(int proc, pid_t group, int sig)
{
    long count = look(proc);
    if (count < 0)
        return false;
    mark((size_t)count);
    for (long i = 0; i < count; i++)
        if (processes[i].below && (!group || processes[i].group == group))
            kill(processes[i].pid, sig);
    return true;
}

/* Stops all: whether there was one that still ran. */
static bool stop_all(int proc)
{
    bool ran = false;
    long count = look(proc);
    if (count > 0)
        mark((size_t)count);
    for (long i = 0; i < count; i++) {
        const struct process *one = &processes[i];
        if (!one->below || one->state == 'T' || one->state == 't' || one->state == 'Z')
            continue;
        ran = true;
        kill(one->pid, SIGSTOP);
    }
    return ran;
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
