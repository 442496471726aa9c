/*
 * usernsctl-init CREATOR READY LIMITS PIDFILE [--network PROGRAM [OPTION...] --] COMMAND...
 *
 * With --network, first creates the network of the sandbox (shared.h, network_join()). Then runs
 * COMMAND, which starts the sandbox in the background and writes the sandbox's pid to PIDFILE. If
 * COMMAND fails, exits with COMMAND's exit status. Otherwise waits for the end of the sandbox, and
 * exits with the sandbox's exit status. SIGTERM ends the sandbox.
 *
 * usernsctl-init usually is PID 1 of a PID namespace. When it exits, even if SIGKILL kills it, the
 * kernel kills all other processes of the namespace (pid_namespaces(7)). Where a new PID namespace
 * can't mount proc on /proc, usernsctl-init is an ordinary process, and kills its descendants
 * before it exits.
 *
 * If the kernel's OOM killer kills a process of the sandbox, or the sandbox exceeds one of its
 * LIMITS (shared.h, limits_parse()), usernsctl-init writes the reason to the file "end" in the
 * directory of PIDFILE (shared.h, end_write()), and exits with status 137, or 124 after a timeout.
 *
 * CREATOR is a pidfd of the creator. usernsctl-init exits when the creator exits. A parent-death
 * signal would come too early: the kernel sends it when the thread that started usernsctl-init
 * exits.
 *
 * READY is a descriptor to which usernsctl-init writes "+" once the sandbox runs, or, after an
 * error before the start of COMMAND, the fields of the error (shared.h, error_send()).
 */
#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

static int run_sandbox(struct sandbox_wait *wait, int ready, const char *pidfile, char **argv)
{
    pid_t starter = sandbox_start_command(argv, &wait->group, &wait->signals);
    if (starter < 0)
        return SANDBOX_FAILED;
    int status = sandbox_wait_for_exit(wait, starter, false, starter);
    if (status)
        return status;
    pid_t sandbox = sandbox_read_pid(pidfile);
    if (sandbox <= 0 || write(ready, "+", 1) != 1)
        return SANDBOX_FAILED;
    close(ready);
    return sandbox_wait_for_exit(wait, sandbox, true, getpid());
}

int main(int argc, char **argv)
{
    struct sandbox_wait wait;
    /* directory of PIDFILE, and path of the file "end" in it */
    char directory[UN_PATH_MAX], end[UN_PATH_MAX];
    struct un_limits limits;
    if (argc < 6 || !limits_parse(argv[3], &limits) || !strrchr(argv[4], '/') ||
        strlen(argv[4]) >= sizeof directory) {
        fputs("usage: usernsctl-init CREATOR READY LIMITS PIDFILE COMMAND...\n", stderr);
        return SANDBOX_FAILED;
    }
    int fds[2];
    char **command = argv + 5;
    struct un_error err;
    if (sandbox_take_fds(argv + 1, fds, 2))
        return SANDBOX_FAILED;
    snprintf(directory, sizeof directory, "%.*s", (int)(strrchr(argv[4], '/') - argv[4]), argv[4]);
    sandbox_wait_init(&wait, command);
    wait.end_fds[0] = fds[0];
    wait.end_file = un_path_join(end, directory, "end") ? NULL : end;
    bool is_first = getpid() == 1;
    if (!is_first && adopt_descendants())
        return sandbox_fail(CHILDREN);
    int status = SANDBOX_FAILED;
    if (!sandbox_wait_begin(&wait, &limits, directory, !is_first, fds[1])) {
        if (network_join(&command, &wait.network, &err))
            error_send(fds[1], &err);
        else
            status = run_sandbox(&wait, fds[1], argv[4], command);
    }
    /* Kill the processes before sandbox_group_remove(), because the kernel does not remove a
     * control group that contains processes. */
    if (!is_first || limits.groups)
        kill_descendants(NULL);
    sandbox_group_remove(&wait.group);
    return status;
}
