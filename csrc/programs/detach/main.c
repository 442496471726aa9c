/*
 * usernsctl-detach CREATOR CONNECTION LOCK LIMITS DIRECTORY PIDFILE [--network PROGRAM [OPTION...]
 * --] COMMAND...
 *
 * Starts a sandbox that outlives its creator. After a failure, leaves nothing behind.
 *
 * With --network, first creates the network of the sandbox (shared.h, network_join()). Then runs
 * COMMAND, which starts the sandbox in the background and writes the sandbox's pid to PIDFILE. If
 * COMMAND succeeds, sends "+" over CONNECTION. After an error before the start of COMMAND, sends
 * the fields of the error instead (shared.h, error_send()).
 *
 * The creator answers "+" when it has recorded the sandbox. From then on, the sandbox outlives the
 * creator. If COMMAND fails, if the creator exits, closes CONNECTION, or sends another answer, and
 * after SIGTERM, the program kills all started processes, and removes DIRECTORY with its contents.
 *
 * usernsctl-detach itself exits after the creator's answer or after a failure. Its child, the
 * keeper, starts the sandbox, and stays as the subreaper of the sandbox's processes. When the
 * sandbox has ended, the keeper writes the exit status to the file "status" in DIRECTORY, and
 * exits. If the kernel's OOM killer kills a process of the sandbox, or the sandbox exceeds one of
 * its LIMITS (shared.h, limits_parse()), the keeper kills all processes of the sandbox, and writes
 * the reason to the file "end" in DIRECTORY (shared.h, end_write()). After SIGTERM, the keeper
 * kills the sandbox.
 *
 * CREATOR is a pidfd of the creator, needed because a forked child of the creator may keep
 * CONNECTION open. LOCK is a descriptor of DIRECTORY with a lock (flock(2)). The lock marks the
 * directory as in use until usernsctl-detach exits.
 */
#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { CREATOR, CONNECTION, LOCK, FDS };

/* Reports success to the creator, and waits for an answer. Returns whether the creator has answered
 * that it has recorded the sandbox. */
static bool is_wanted(const int fds[FDS])
{
    char answer = 0;
    struct pollfd polled[] = {
        {.fd = fds[CREATOR], .events = POLLIN},
        {.fd = fds[CONNECTION], .events = POLLIN},
    };
    if (send(fds[CONNECTION], "+", 1, MSG_NOSIGNAL) != 1)
        return false;
    while (poll(polled, 2, -1) < 0 && errno == EINTR)
        continue;
    return polled[1].revents && recv(fds[CONNECTION], &answer, 1, 0) == 1 && answer == '+';
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status, (void)kind, (void)where;
    /* Unmount the mount that runsc leaves in its state directory (null-netns, since runsc
     * 20260810). */
    if (remove(path) && errno == EBUSY && !umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW))
        remove(path);
    return 0;
}

/* Starts the sandbox, and stores its pid in *sandbox. Returns 0, or the exit status with which this
 * process must exit after a failure. */
static int start_sandbox(struct sandbox_wait *wait, const int fds[FDS], char **argv, pid_t *sandbox)
{
    struct un_error err;
    char **command = argv + 1;
    wait->end_fds[0] = fds[CREATOR];
    wait->end_fds[1] = fds[CONNECTION];
    if (network_join(&command, &wait->network, &err)) {
        error_send(fds[CONNECTION], &err);
        return SANDBOX_FAILED;
    }
    pid_t starter = sandbox_start_command(command, &wait->group, &wait->signals);
    if (starter < 0)
        return SANDBOX_FAILED;
    int status = sandbox_wait_for_exit(wait, starter, false, starter);
    if (status)
        return status;
    *sandbox = sandbox_read_pid(argv[0]);
    if (*sandbox <= 0)
        return SANDBOX_FAILED;
    return is_wanted(fds) ? 0 : SANDBOX_KILLED;
}

/* Writes a byte to the pipe `started`, so that the parent of this process exits. Then waits for the
 * end of the sandbox, and writes the sandbox's exit status to the file "status". */
static void keep_sandbox(struct sandbox_wait *wait, const int fds[FDS], int started, pid_t sandbox)
{
    char status[16];
    /* Unlock explicitly, because close(2) does not unlock the file if a forked child of the creator
     * shares the open file description. If flock(2) fails, the directory counts as in use until
     * that child exits. */
    flock(fds[LOCK], LOCK_UN);
    un_close_each(fds, FDS);
    /* Ignore a failure, which can only mean that the parent was killed. */
    un_write_all(started, "+", 1);
    close(started);
    wait->end_fds[0] = wait->end_fds[1] = -1;
    /* Leave the creator's working directory, so that the filesystem of that directory can be
     * unmounted while the sandbox runs. Ignore a failure. */
    (void)!chdir("/");
    snprintf(status, sizeof status, "%d", sandbox_wait_for_exit(wait, sandbox, true, getpid()));
    sandbox_write_text(wait->directory, "status", status);
    kill_descendants(NULL);
    sandbox_group_remove(&wait->group);
}

static int run_keeper(const int fds[FDS], const struct un_limits *limits, int started, char **argv)
{
    struct sandbox_wait wait;
    pid_t sandbox;
    const char *directory = argv[1];
    sandbox_wait_init(&wait, argv + 3);
    wait.end_file = "end";
    /* Refer to the directory by a descriptor, because the creator renames the directory. */
    wait.directory = openat(fds[LOCK], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (wait.directory < 0)
        return sandbox_fail(directory);
    if (adopt_descendants())
        return sandbox_fail(CHILDREN);
    int status = sandbox_wait_begin(&wait, limits, directory, true, fds[CONNECTION])
                     ? SANDBOX_FAILED
                     : start_sandbox(&wait, fds, argv + 2, &sandbox);
    if (!status) {
        keep_sandbox(&wait, fds, started, sandbox);
        return 0;
    }
    kill_descendants(NULL);
    sandbox_group_remove(&wait.group);
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    flock(fds[LOCK], LOCK_UN);
    return status;
}

/* Waits until the keeper writes a byte to the pipe `started` or exits. Forwards SIGTERM to the
 * keeper in the meantime. Returns the exit status of this process. */
static int wait_for_keeper(pid_t keeper, int started, int signals)
{
    int status;
    char byte;
    struct pollfd fds[] = {{.fd = started, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    do {
        if (poll(fds, 2, -1) > 0 && fds[1].revents && sandbox_read_signals(signals))
            kill(keeper, SIGTERM);
    } while (!fds[0].revents);
    if (un_read_all(started, &byte, 1) == 1)
        return 0;
    return waitpid(keeper, &status, 0) == keeper ? un_exit_status_of(status) : SANDBOX_FAILED;
}

int main(int argc, char **argv)
{
    struct sigaction sigchld;
    sigset_t handled;
    int fds[FDS], ends[2];
    struct un_limits limits;
    if (argc < 8 || !limits_parse(argv[4], &limits)) {
        fputs(
            "usage: usernsctl-detach CREATOR CONNECTION LOCK LIMITS DIRECTORY PIDFILE COMMAND...\n",
            stderr);
        return SANDBOX_FAILED;
    }
    if (sandbox_take_fds(argv + 1, fds, FDS))
        return SANDBOX_FAILED;
    sigemptyset(&handled);
    sigaddset(&handled, SIGTERM);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    un_default_sigchld(&sigchld);
    int signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
    pid_t keeper = signals < 0 || pipe2(ends, O_CLOEXEC) ? -1 : un_fork();
    if (keeper < 0)
        return sandbox_fail("usernsctl-detach can't open a pipe or fork");
    close(ends[keeper > 0]);
    if (keeper > 0)
        return wait_for_keeper(keeper, ends[0], signals);
    close(signals);
    sigaction(SIGCHLD, &sigchld, NULL);
    return run_keeper(fds, &limits, ends[1], argv + 4);
}
