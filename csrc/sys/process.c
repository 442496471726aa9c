#include "base/base.h"
#include "sys/sys.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Time in milliseconds for which un_kill_and_reap() waits for the exit of a child after SIGKILL. */
#define END_MS 2000
/* Maximum number of nested PID namespaces, including the initial one (pid_namespaces(7)). */
#define PID_NAMESPACES_MAX 33

int un_pidfd_open(pid_t pid)
{
    return (int)syscall(UN_SYS_PIDFD_OPEN, pid, 0);
}

int un_wait_readable(int fd, int timeout_ms)
{
    struct pollfd event = {.fd = fd, .events = POLLIN};
    int64_t deadline = timeout_ms > 0 ? un_now_ms() + timeout_ms : 0;
    int count, left = timeout_ms;
    while ((count = poll(&event, 1, left)) < 0 && errno == EINTR)
        if (timeout_ms > 0 && (left = (int)(deadline - un_now_ms())) < 0)
            left = 0;
    return count;
}

/* A copy of struct pidfd_info in linux/pidfd.h, which some libcs lack. */
struct pidfd_info {
    uint64_t mask;
    uint64_t cgroup;
    uint32_t ids[11]; /* pid, tgid, ppid, uids and gids of the process */
    int32_t exit_code;
};
#define PIDFD_INFO_EXIT 8 /* flag of PIDFD_GET_INFO since Linux 6.15 */
#define PIDFD_GET_INFO _IOWR(0xFF, 11, struct pidfd_info)

int un_lost_status(int pidfd)
{
    struct pidfd_info info = {.mask = PIDFD_INFO_EXIT};
    bool has_code = !ioctl(pidfd, PIDFD_GET_INFO, &info) && info.mask & PIDFD_INFO_EXIT;
    return has_code ? info.exit_code : -1;
}

static bool read_lost(int pidfd, siginfo_t *how)
{
    int status = un_lost_status(pidfd);
    if (status < 0)
        return false;
    how->si_code = WIFEXITED(status) ? CLD_EXITED : WCOREDUMP(status) ? CLD_DUMPED : CLD_KILLED;
    how->si_status = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    return true;
}

bool un_reap(int pidfd, siginfo_t *how)
{
    int failed;
    memset(how, 0, sizeof *how);
    while ((failed = waitid(UN_BY_PIDFD, (id_t)pidfd, how, WEXITED | __WALL)) && errno == EINTR)
        continue;
    return !failed || (errno == ECHILD && read_lost(pidfd, how));
}

static int64_t microseconds(const struct timeval *time)
{
    return (int64_t)time->tv_sec * 1000000 + time->tv_usec;
}

int un_reap_exited(int pidfd, struct un_usage *usage)
{
    siginfo_t how = {.si_pid = 0};
    struct rusage used;
    /* Make the system call directly, because libc's waitid() has no parameter for the resource
     * usage. */
    if (syscall(SYS_waitid, UN_BY_PIDFD, pidfd, &how, WEXITED | WNOHANG | __WALL, &used) ||
        !how.si_pid)
        return -1;
    usage->user_us = microseconds(&used.ru_utime);
    usage->system_us = microseconds(&used.ru_stime);
    usage->max_kib = used.ru_maxrss;
    return 0;
}

int un_stopped_by(int pidfd)
{
    siginfo_t how = {.si_pid = 0};
    int options = WSTOPPED | WNOHANG | WNOWAIT | __WALL;
    return waitid(UN_BY_PIDFD, (id_t)pidfd, &how, options) || !how.si_pid ? 0 : how.si_status;
}

/* Reads the pids of a process from the line "NSpid:" of the file `path`: the pid in the PID
 * namespace of /proc, then the pids in the descendants of that namespace (proc_pid_status(5)).
 * Returns their number, or 0 if the file can't be read. */
static int read_pids(const char *path, long pids[PID_NAMESPACES_MAX])
{
    char line[512];
    int count = 0;
    un_auto_fclose FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        char *at = line + strlen("NSpid:");
        if (!un_begins(line, "NSpid:"))
            continue;
        while (count < PID_NAMESPACES_MAX && (pids[count] = strtol(at, &at, 10)) > 0)
            count++;
        break;
    }
    return count;
}

/* Kills a child by its pid, which can't have been reused, because the child has not been reaped
 * yet. If /proc belongs to an outer PID namespace, its first pid is not the one that kill(2) takes.
 * The pids of this process end with the pid in its own namespace, so their number tells which pid
 * of the child belongs to that namespace. */
static void kill_by_number(int pidfd)
{
    char path[64];
    long own[PID_NAMESPACES_MAX], pids[PID_NAMESPACES_MAX];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    int depth = read_pids("/proc/self/status", own), count = read_pids(path, pids);
    if (depth > 0 && count >= depth)
        kill((pid_t)pids[depth - 1], SIGKILL);
}

void un_kill(int pidfd)
{
    /* If a seccomp filter denies pidfd_send_signal(2), kill the child by its pid, because the
     * caller waits for the exit of the child. */
    if (syscall(UN_SYS_PIDFD_SEND_SIGNAL, pidfd, SIGKILL, NULL, 0) && errno != ESRCH)
        kill_by_number(pidfd);
}

bool un_kill_and_reap(int pidfd, siginfo_t *how)
{
    un_kill(pidfd);
    return un_wait_readable(pidfd, END_MS) > 0 && un_reap(pidfd, how);
}

int un_exit_status_of(int wait_status)
{
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

int un_forbid_cancel(void)
{
    int before = PTHREAD_CANCEL_ENABLE;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

void un_restore_cancel(int state)
{
    pthread_setcancelstate(state, NULL);
}
