/*
 * usernsctl-detach CREATOR CONNECTION LOCK DIRECTORY COMMAND...
 *
 * Starts a sandbox that outlives its creator, or leaves nothing behind on failure. Runs COMMAND,
 * which starts the sandbox in the background, and reports its success by "+" on CONNECTION, or an
 * error before the start of COMMAND by its fields (shared.h, sandbox_show_limits()). The
 * answer "+" means that the creator has recorded the sandbox: the sandbox stays, and
 * usernsctl-detach exits. On any other answer, which may come before that byte, or if COMMAND fails
 * or CREATOR exits first, or after SIGTERM, all started processes are killed, and DIRECTORY is
 * removed with its contents.
 *
 * CREATOR is a pidfd, because a fork of the creator may keep CONNECTION open. LOCK is a descriptor
 * of DIRECTORY with a lock (flock(2)), which marks the directory as in use until usernsctl-detach
 * exits.
 */
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct channel {
    int creator;
    int connection;
};

/* Waits until `fd` is readable. Returns false if the creator exits or answers, and `fd` is not
 * readable. */
static bool wait_unless_over(const struct channel *to, int fd)
{
    struct pollfd fds[] = {
        {.fd = to->creator, .events = POLLIN},
        {.fd = to->connection, .events = POLLIN},
        {.fd = fd, .events = POLLIN},
    };
    while (poll(fds, 3, -1) < 0 && errno == EINTR)
        continue;
    return fds[2].revents;
}

/* Returns the exit status of the child `pid`, or SANDBOX_KILLED if the creator exits or answers
 * first. */
static int wait_for_child(pid_t pid, const struct channel *to, int signals)
{
    int status;
    pid_t ended;
    while (!(ended = waitpid(pid, &status, WNOHANG)))
        if (!wait_unless_over(to, signals) || sandbox_read_signals(signals))
            return SANDBOX_KILLED;
    return ended == pid ? un_exit_status_of(status) : SANDBOX_FAILED;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status, (void)kind, (void)where;
    /* runsc leaves a namespace mounted in its state directory (null-netns, since 20260803). */
    if (remove(path) && errno == EBUSY && !umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW))
        remove(path);
    return 0;
}

static bool is_wanted(const struct channel *to)
{
    char answer = 0;
    return send(to->connection, "+", 1, MSG_NOSIGNAL) == 1 &&
           wait_unless_over(to, to->connection) && recv(to->connection, &answer, 1, 0) == 1 &&
           answer == '+';
}

static int run_detached(char **argv, const struct channel *to, const char *directory)
{
    int signals;
    pid_t starter = sandbox_start_command(argv, &signals);
    if (starter < 0)
        return SANDBOX_FAILED;
    int status = wait_for_child(starter, to, signals);
    if (status == 0 && is_wanted(to))
        return 0;
    kill_descendants();
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return status ? status : SANDBOX_KILLED;
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fputs("usage: usernsctl-detach CREATOR CONNECTION LOCK DIRECTORY COMMAND...\n", stderr);
        return SANDBOX_FAILED;
    }
    int fds[3];
    if (sandbox_take_fds(argv + 1, fds, 3))
        return SANDBOX_FAILED;
    const struct channel to = {.creator = fds[0], .connection = fds[1]};
    if (adopt_descendants())
        return sandbox_fail(CHILDREN);
    if (sandbox_show_limits(argv[4], true, to.connection))
        return SANDBOX_FAILED;
    int status = run_detached(argv + 5, &to, argv[4]);
    /* A fork of the creator may also hold this descriptor, so closing it would not unlock. */
    flock(fds[2], LOCK_UN);
    return status;
}
