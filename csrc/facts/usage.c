/*
 * Measuring the memory, tasks and CPU time of the processes of a sandbox.
 *
 * The memory of the programs inside and of their files is in a memfd of gVisor's kernel, the
 * sentry. RSS does not include this memory, but the memfd's allocated blocks do. The rest of the
 * memory is the anonymous memory of gVisor's processes and their page tables. Page tables count,
 * because a program inside can make the kernel allocate many page tables for a few pages.
 */
#include "base/base.h"
#include "facts/facts.h"

#include <dirent.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#define MEMORY_FILE "/memfd:runsc-memory"

/* The id of a process's CPU clock (CPUCLOCK_SCHED, linux/posix-timers_types.h), as computed by
 * clock_getcpuclockid(3). clock_getcpuclockid(3) would make an additional system call to check that
 * the process exists, but clock_gettime(2) checks that anyway. */
#define PROCESS_CLOCK(pid) ((clockid_t)(~(unsigned)(pid) << 3 | 2))

/* Calls `visit` for each child in the file `path`, until `visit` returns true. Returns whether
 * `visit` has returned true. */
static bool any_child_in(const char *path, bool (*visit)(pid_t child, void *arg), void *arg)
{
    char text[512];
    size_t kept = 0;
    ssize_t length = 0;
    bool found = false;
    un_auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    /* A space follows each number. If there is no space, the number is incomplete, and the next
     * read(2) returns the rest. */
    while (fd >= 0 && !found && (length = read(fd, text + kept, sizeof text - 1 - kept)) > 0) {
        text[kept + (size_t)length] = '\0';
        char *at = text, *end;
        uint64_t pid;
        while (!found && (end = strchr(at, ' '))) {
            found = un_number_read(at, INT32_MAX, &pid) && visit((pid_t)pid, arg);
            at = end + 1;
        }
        kept = strlen(at);
        memmove(text, at, kept);
    }
    return found;
}

bool un_any_child(pid_t pid, bool (*visit)(pid_t child, void *arg), void *arg, bool *failed)
{
    char path[64];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *threads = opendir(path);
    *failed = !threads;
    for (const struct dirent *thread; threads && !found && (thread = readdir(threads));) {
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)pid, thread->d_name);
        found = *thread->d_name != '.' && any_child_in(path, visit, arg);
    }
    if (threads)
        closedir(threads);
    return found;
}

bool un_memory_files_open(pid_t pid, struct un_memory_files *files)
{
    char path[64], link[sizeof MEMORY_FILE];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *all = opendir(path);
    files->count = 0;
    for (const struct dirent *fd; all && (fd = readdir(all)) && files->count < UN_MEMORY_FILES;) {
        /* The descriptor is valid, because dirfd(3) does not fail for an open directory.
         * NOLINTNEXTLINE(clang-analyzer-unix.StdCLibraryFunctions) */
        ssize_t length = readlinkat(dirfd(all), fd->d_name, link, sizeof link);
        if (length < (ssize_t)sizeof MEMORY_FILE - 1 ||
            strncmp(link, MEMORY_FILE, sizeof MEMORY_FILE - 1) != 0)
            continue;
        /* The descriptor is valid, because dirfd(3) does not fail for an open directory.
         * NOLINTNEXTLINE(clang-analyzer-unix.StdCLibraryFunctions) */
        int file = openat(dirfd(all), fd->d_name, O_PATH | O_CLOEXEC);
        if (file < 0)
            continue;
        files->number[files->count] = atoi(fd->d_name);
        files->fd[files->count++] = file;
    }
    if (all)
        closedir(all);
    return files->count;
}

bool un_memory_files_are_open(pid_t pid, const struct un_memory_files *files)
{
    char path[64];
    struct stat ours, theirs;
    for (size_t i = 0; i < files->count; i++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, files->number[i]);
        if (fstat(files->fd[i], &ours) || stat(path, &theirs) || ours.st_dev != theirs.st_dev ||
            ours.st_ino != theirs.st_ino)
            return false;
    }
    return files->count;
}

void un_memory_files_close(struct un_memory_files *files)
{
    while (files->count)
        close(files->fd[--files->count]);
}

/* Counts each memfd once, even if several descriptors refer to it. */
uint64_t un_memory_files_size(const struct un_memory_files *files)
{
    struct stat status[UN_MEMORY_FILES];
    uint64_t blocks = 0;
    for (size_t i = 0; i < files->count; i++) {
        size_t same = 0;
        if (fstat(files->fd[i], &status[i]))
            status[i] = (struct stat){.st_blocks = 0};
        while (same < i && status[same].st_ino != status[i].st_ino)
            same++;
        if (same == i)
            blocks += (uint64_t)status[i].st_blocks;
    }
    return blocks * 512;
}

/* Returns the value of `key` in `status`, the contents of /proc/PID/status, converted from KiB to
 * bytes, or 0 if `status` lacks `key`. */
static uint64_t read_kib(const char *status, const char *key)
{
    uint64_t kib = 0;
    const char *at = strstr(status, key);
    if (at) {
        at += strlen(key);
        un_number_read(at + strspn(at, " \t"), INT64_MAX >> 10, &kib);
    }
    return kib << 10;
}

static uint64_t read_line_kib(const char *path, const char *key)
{
    int64_t kib = un_field_number(path, key);
    return kib < 0 ? 0 : (uint64_t)kib << 10;
}

uint64_t un_private_memory(pid_t pid)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    ssize_t length = un_read_file(AT_FDCWD, path, text, sizeof text);
    if (length <= 0)
        return 0;
    /* If the file did not fit the buffer, read it line by line. The list of supplementary groups,
     * which may contain thousands of groups, precedes the needed lines. */
    if (length == sizeof text - 1)
        return read_line_kib(path, "VmPTE:") + read_line_kib(path, "RssAnon:");
    return read_kib(text, "\nVmPTE:") + read_kib(text, "\nRssAnon:");
}

int64_t un_processor_time(pid_t pid)
{
    struct timespec time;
    if (clock_gettime(PROCESS_CLOCK(pid), &time))
        return -1;
    return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

uint64_t un_task_count(pid_t pid)
{
    char path[64];
    struct stat status;
    /* The link count of /proc/PID/task is 2 plus the number of threads, each of which has a
     * subdirectory. */
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    return !stat(path, &status) && status.st_nlink > 2 ? (uint64_t)status.st_nlink - 2 : 0;
}

int un_open_last_pid(void)
{
    struct statfs fs;
    int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    /* Accept /proc/loadavg only if it is on procfs: an emulation of the file, such as that of
     * lxcfs, does not contain the last pid of this PID namespace. */
    if (fd >= 0 && (fstatfs(fd, &fs) || (uint64_t)fs.f_type != PROC_SUPER_MAGIC)) {
        close(fd);
        return -1;
    }
    return fd;
}

int64_t un_last_pid(int fd)
{
    char text[128];
    uint64_t pid;
    ssize_t length = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    text[length < 0 ? 0 : length] = '\0';
    const char *at = strrchr(text, ' ');
    return at && un_number_read(at + 1, INT32_MAX, &pid) ? (int64_t)pid : -1;
}

/* Maximum depth to which add_usage() descends in a process tree. The process trees of runsc are far
 * less deep. */
#define LEVELS_MAX 8

/* State of a walk through the process tree of a sandbox. */
struct usage_walk {
    struct un_sandbox_usage usage;
    /* memfds of the sentry (gVisor's kernel); empty until the sentry is found */
    struct un_memory_files files;
    bool is_inside; /* whether the visited process is the sentry (gVisor's kernel), or a descendant
                       of the sentry */
    int level;
};

static bool add_usage(pid_t pid, void *arg)
{
    bool ignored;
    struct usage_walk *walk = arg;
    int64_t time = un_processor_time(pid);
    bool is_sentry = !walk->files.count && un_memory_files_open(pid, &walk->files);
    bool was_inside = walk->is_inside;
    walk->is_inside = was_inside || is_sentry;
    walk->usage.memory += un_private_memory(pid);
    walk->usage.time += time < 0 ? 0 : (uint64_t)time;
    walk->usage.tasks += walk->is_inside ? un_task_count(pid) : 0;
    if (walk->level++ < LEVELS_MAX)
        un_any_child(pid, add_usage, walk, &ignored);
    walk->level--;
    walk->is_inside = was_inside;
    return false;
}

int un_sandbox_usage(int parent, struct un_sandbox_usage *usage)
{
    bool failed;
    struct usage_walk walk = {.level = 0};
    un_any_child(parent, add_usage, &walk, &failed);
    bool is_found = walk.files.count;
    walk.usage.memory += un_memory_files_size(&walk.files);
    un_memory_files_close(&walk.files);
    *usage = walk.usage;
    if (is_found)
        return 0;
    errno = failed || !walk.usage.time ? ESRCH : EACCES;
    return -1;
}
