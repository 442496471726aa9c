/*
 * usernsctl-init CREATOR READY PIDFILE COMMAND...
 *
 * Runs COMMAND, which starts the sandbox in the background and writes its pid to PIDFILE, then
 * waits for the sandbox and exits with its status, or with that of COMMAND if that fails. SIGTERM
 * ends the sandbox.
 *
 * As process 1 of a PID namespace, usernsctl-init needs to kill nothing: its exit kills all other
 * processes of the namespace (pid_namespaces(7)), even if SIGKILL ends it. Where a PID namespace
 * can't have a /proc, usernsctl-init is an ordinary process, and kills its descendants at its exit.
 *
 * If the kernel's OOM killer kills a process of the sandbox, usernsctl-init writes a description
 * into the file "oom" beside PIDFILE, and exits with status 137.
 *
 * CREATOR is a pidfd: usernsctl-init exits when that process exits. A parent-death signal would
 * already be sent at the exit of the thread that started usernsctl-init. READY is a descriptor to
 * which "+" is written once the sandbox runs, or the fields of an error before the start of COMMAND
 * (shared.h, sandbox_show_limits()).
 */
#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

struct init {
    int creator;
    int ready;
    int signals;
    const char *pidfile;
    char directory[UN_PATH_MAX]; /* directory of the pid file */
    struct oom_watch oom;
};

/* Waits until a child may have exited, or the kernel may have killed a process. Returns false if
 * the creator has exited, or after SIGTERM. */
static bool wait_for_event(const struct init *init)
{
    struct pollfd fds[] = {
        {.fd = init->creator, .events = POLLIN},
        {.fd = init->signals, .events = POLLIN},
        {.fd = init->oom.has_events ? init->oom.fd : -1, .events = POLLPRI},
    };
    while (poll(fds, 3, oom_watch_interval(&init->oom)) < 0 && errno == EINTR)
        continue;
    return !sandbox_read_signals(init->signals) && !fds[0].revents;
}

/* Writes a description of an OOM kill into a file. Returns the exit status. */
static int report_oom_kill(const struct init *init)
{
    char path[UN_PATH_MAX], text[OOM_TEXT_MAX];
    oom_describe(text, sizeof text);
    int flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC;
    un_auto_close int fd =
        un_path_join(path, init->directory, "oom") ? -1 : openat(AT_FDCWD, path, flags, 0600);
    if (fd >= 0)
        un_write_all(fd, text, strlen(text));
    return SANDBOX_KILLED;
}

/* Returns the exit status of this process for a wait status of a child. */
static int judge_end(const struct init *init, int wait_status)
{
    int status = un_exit_status_of(wait_status);
    return status && oom_watch_is_new(&init->oom) ? report_oom_kill(init) : status;
}

/* Waits for the exit of the child `pid`, and reaps all other children too if `others` is set. The
 * processes of the sandbox are children of `parent`. Returns the exit status, or SANDBOX_KILLED if
 * the creator exits, SIGTERM comes, or the kernel kills a process of the sandbox, first. */
static int wait_for_exit(struct init *init, pid_t pid, bool others, pid_t parent)
{
    int status;
    do {
        pid_t ended;
        while ((ended = waitpid(others ? -1 : pid, &status, WNOHANG)) > 0)
            if (ended == pid)
                return judge_end(init, status);
        if (ended < 0 && errno == ECHILD)
            return SANDBOX_FAILED;
        if (oom_watch_look(&init->oom, parent))
            return report_oom_kill(init);
    } while (wait_for_event(init));
    return SANDBOX_KILLED;
}

static pid_t read_pidfile(const char *path)
{
    char text[32];
    return un_read_file(AT_FDCWD, path, text, sizeof text) < 0 ? 0 : (pid_t)strtol(text, NULL, 10);
}

static int run_sandbox(struct init *init, char **argv)
{
    oom_watch_begin(&init->oom);
    pid_t starter = sandbox_start_command(argv, &init->signals);
    if (starter < 0)
        return SANDBOX_FAILED;
    int status = wait_for_exit(init, starter, false, starter);
    if (status)
        return status;
    pid_t sandbox = read_pidfile(init->pidfile);
    if (sandbox <= 0 || write(init->ready, "+", 1) != 1)
        return SANDBOX_FAILED;
    close(init->ready);
    return wait_for_exit(init, sandbox, true, getpid());
}

int main(int argc, char **argv)
{
    struct init init;
    if (argc < 5 || !strrchr(argv[3], '/') || strlen(argv[3]) >= sizeof init.directory) {
        fputs("usage: usernsctl-init CREATOR READY PIDFILE COMMAND...\n", stderr);
        return SANDBOX_FAILED;
    }
    int fds[2];
    if (sandbox_take_fds(argv + 1, fds, 2))
        return SANDBOX_FAILED;
    init.creator = fds[0];
    init.ready = fds[1];
    init.pidfile = argv[3];
    snprintf(init.directory, sizeof init.directory, "%.*s", (int)(strrchr(argv[3], '/') - argv[3]),
             argv[3]);
    bool is_first = getpid() == 1;
    if (!is_first && adopt_descendants())
        return sandbox_fail(CHILDREN);
    if (sandbox_show_limits(init.directory, !is_first, init.ready))
        return SANDBOX_FAILED;
    int status = run_sandbox(&init, argv + 4);
    if (!is_first)
        kill_descendants();
    return status;
}
