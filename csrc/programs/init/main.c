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
 * CREATOR is a pidfd: usernsctl-init exits when that process exits. A parent-death signal would
 * already be sent at the exit of the thread that started usernsctl-init. READY is a descriptor to
 * which one byte is written once the sandbox runs.
 */
#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

/* Waits until a child may have exited. Returns false if the creator has, or after SIGTERM. */
static bool wait_for_child_or_creator(int creator, int signals)
{
    struct pollfd fds[] = {{.fd = creator, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        continue;
    return !sandbox_read_signals(signals) && !fds[0].revents;
}

/* Waits for the exit of the child `pid`, and reaps all other children too if `others` is set.
 * Returns the exit status, or SANDBOX_KILLED if the creator exits, or SIGTERM comes, first. */
static int wait_for_exit(pid_t pid, bool others, int creator, int signals)
{
    int status;
    do {
        pid_t ended;
        while ((ended = waitpid(others ? -1 : pid, &status, WNOHANG)) > 0)
            if (ended == pid)
                return un_exit_status_of(status);
        if (ended < 0 && errno == ECHILD)
            return SANDBOX_FAILED;
    } while (wait_for_child_or_creator(creator, signals));
    return SANDBOX_KILLED;
}

static pid_t read_pidfile(const char *path)
{
    char text[32];
    return un_read_file(AT_FDCWD, path, text, sizeof text) < 0 ? 0 : (pid_t)strtol(text, NULL, 10);
}

static int run_sandbox(char **argv, int creator, int ready, const char *pidfile)
{
    int signals;
    pid_t starter = sandbox_start_command(argv, &signals);
    if (starter < 0)
        return SANDBOX_FAILED;
    int status = wait_for_exit(starter, false, creator, signals);
    if (status)
        return status;
    pid_t sandbox = read_pidfile(pidfile);
    if (sandbox <= 0 || write(ready, "+", 1) != 1)
        return SANDBOX_FAILED;
    close(ready);
    return wait_for_exit(sandbox, true, creator, signals);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fputs("usage: usernsctl-init CREATOR READY PIDFILE COMMAND...\n", stderr);
        return SANDBOX_FAILED;
    }
    int fds[2];
    if (sandbox_take_fds(argv + 1, fds, 2))
        return SANDBOX_FAILED;
    bool is_first = getpid() == 1;
    if (!is_first && adopt_descendants())
        return sandbox_fail(CHILDREN);
    int status = run_sandbox(argv + 4, fds[0], fds[1], argv[3]);
    if (!is_first)
        kill_descendants();
    return status;
}
