/*
 * attacker HOW ADDRESS MARKER DEVICE INODE VARIABLE PATH OWN
 *
 * Inspects every new process with ptrace(2), process_vm_readv(2) and /proc, until end of file on
 * standard input. Prints a line for each success, and then the number of inspected processes. A
 * success is to find one of these: MARKER in memory at ADDRESS, a descriptor of the file with
 * DEVICE and INODE, VARIABLE in an environment, the file PATH below the root directory of a
 * process, or OWN in a command line. OWN is a value from commands' environment, and must not be in
 * their command lines, which are public.
 *
 * MARKER, VARIABLE and OWN are passed with inverted bits, so that the attacker does not find its
 * own arguments.
 *
 * HOW is "drop" to drop all capabilities first, or "keep" to keep all capabilities. "look" keeps
 * them too, but does not use ptrace(2): if another process traces a process of a sandbox, gVisor
 * kills the command in the sandbox.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void *address;
static unsigned char marker[64], variable[64], own[64];
static size_t marker_length, variable_length, own_length;
static unsigned long device, inode;
static const char *outside;
static bool only_looks;
static long seen;

static size_t uninvert(const char *hex, unsigned char *out)
{
    size_t length = strlen(hex) / 2;
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        out[i] = (unsigned char)~byte;
    }
    return length;
}

static void got(const char *what, pid_t pid)
{
    printf("%s of %d\n", what, (int)pid);
    fflush(stdout);
}

static bool is_marker(const unsigned char *data)
{
    return !memcmp(data, marker, marker_length);
}

/* Tries to read the marker with process_vm_readv(2). Returns false if the process has exited. */
static bool by_vm_read(pid_t pid)
{
    unsigned char data[64];
    struct iovec here = {data, marker_length}, there = {address, marker_length};
    ssize_t size = process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (size == (ssize_t)marker_length && is_marker(data))
        got("process_vm_readv", pid);
    return size >= 0 || errno != ESRCH;
}

static void by_mem(pid_t pid)
{
    unsigned char data[64];
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    if (pread(fd, data, marker_length, (off_t)(size_t)address) == (ssize_t)marker_length &&
        is_marker(data))
        got("mem", pid);
    close(fd);
}

static void by_fd(pid_t pid)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    const struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        if (!fstatat(dirfd(directory), entry->d_name, &status, 0) && status.st_dev == device &&
            status.st_ino == inode)
            got("fd", pid);
    if (directory)
        closedir(directory);
}

static void by_file(pid_t pid, const char *file, const unsigned char *secret, size_t length)
{
    char path[64], data[65536];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t size = read(fd, data, sizeof data);
    if (size > 0 && memmem(data, (size_t)size, secret, length))
        got(file, pid);
    close(fd);
}

static void by_root(pid_t pid)
{
    char path[4200];
    struct stat status;
    snprintf(path, sizeof path, "/proc/%d/root/%s", (int)pid, outside);
    if (*outside && !stat(path, &status))
        got("root", pid);
}

/* Waits until the traced process stops or exits. Returns true if it has exited: waitpid(2) has
 * then reaped it on the tracer's side, so the parent's waitpid(2) can return. */
static bool has_ended(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
        continue;
    return !WIFSTOPPED(status);
}

static void by_ptrace(pid_t pid)
{
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL))
        return;
    ptrace(PTRACE_INTERRUPT, pid, NULL, NULL);
    if (has_ended(pid))
        return;
    errno = 0;
    long word = ptrace(PTRACE_PEEKDATA, pid, address, NULL);
    if (!errno && !memcmp(&word, marker, sizeof word))
        got("ptrace", pid);
    if (ptrace(PTRACE_DETACH, pid, NULL, NULL))
        has_ended(pid);
}

static void attack(pid_t pid, unsigned turn)
{
    if (pid == getpid() || !by_vm_read(pid))
        return;
    seen++;
    by_mem(pid);
    by_fd(pid);
    by_root(pid);
    by_file(pid, "environ", variable, variable_length);
    by_file(pid, "cmdline", own, own_length);
    if (turn % 16 == 0 && !only_looks)
        by_ptrace(pid);
}

static pid_t last_pid(int loadavg)
{
    char text[128];
    ssize_t size = pread(loadavg, text, sizeof text - 1, 0);
    if (size <= 0)
        return 0;
    text[size] = '\0';
    const char *last = strrchr(text, ' ');
    return last ? atoi(last) : 0;
}

static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};
    if (syscall(SYS_capset, &header, data))
        perror("capset"), exit(2);
    /* Dropping capabilities also makes this process non-dumpable, but this does not affect its
     * attacks. */
}

int main(int argc, char **argv)
{
    if (argc != 9)
        return 2;
    if (!strcmp(argv[1], "drop"))
        drop_capabilities();
    only_looks = !strcmp(argv[1], "look");
    address = (void *)strtoul(argv[2], NULL, 0);
    marker_length = uninvert(argv[3], marker);
    device = strtoul(argv[4], NULL, 0);
    inode = strtoul(argv[5], NULL, 0);
    variable_length = uninvert(argv[6], variable);
    outside = argv[7];
    own_length = uninvert(argv[8], own);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int loadavg = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    struct pollfd end = {.fd = 0, .events = POLLIN};
    puts("ready");
    fflush(stdout);
    for (unsigned turn = 0; turn % 64 || poll(&end, 1, 0) == 0; turn++) {
        pid_t last = last_pid(loadavg);
        for (pid_t pid = last - 3; pid <= last + 2; pid++)
            attack(pid, turn);
    }
    printf("seen %ld\n", seen);
    return 0;
}
