/*
 * usernsctl-detach CREATOR CONNECTION LOCK LIMITS DIRECTORY PIDFILE
 *     [--network PROGRAM [OPTION...] --] COMMAND...
 *
 * Starts a sandbox that outlives its creator, or leaves nothing behind on failure. Runs COMMAND,
 * which starts the sandbox in the background and writes its pid to PIDFILE, and reports its success
 * by "+" on CONNECTION, or an error before the start of COMMAND by its fields (shared.h,
 * sandbox_show_limits()). The answer "+" means that the creator has recorded the sandbox, which
 * then outlives the creator. On any other answer, which may come before that byte, or if COMMAND
 * fails or CREATOR exits first, or after SIGTERM, all started processes are killed, and DIRECTORY
 * is removed with its contents. With --network, makes the network of the sandbox first (shared.h,
 * network_join()).
 *
 * usernsctl-detach exits after that answer or failure. Its grandchild, the keeper, starts the
 * sandbox and remains the parent (child subreaper) of the sandbox's processes. When the sandbox has
 * ended, the keeper writes the exit status into the file "status" in DIRECTORY, and exits. If the
 * kernel's OOM killer kills a process of the sandbox, or the sandbox exceeds one of its LIMITS
 * (shared.h, limits_parse()), the keeper kills all processes, and writes the reason into the file
 * "end" (shared.h, end_write()). SIGTERM to the keeper ends the sandbox.
 *
 * Nothing enforces the limits if the keeper is killed. Its parent, the guard, then becomes the
 * parent of the sandbox's processes, being a child subreaper, too, and kills them. If the guard is
 * killed, the keeper ends the sandbox.
 *
 * CREATOR is a pidfd, because a fork of the creator may keep CONNECTION open. LOCK is a descriptor
 * of DIRECTORY with a lock (flock(2)), which marks the directory as in use until usernsctl-detach
 * exits.
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

/* The file "end" if the keeper or the guard was killed. */
#define LOST                                                                                       \
    "watcher-killed 0 0\nthe sandbox was ended: a process of usernsctl-detach, which enforces "    \
    "the "                                                                                         \
    "limits of the sandbox, was killed\n"

/* Waits for an answer of the creator. Returns whether the creator wants the sandbox to stay. */
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
    /* runsc leaves a namespace mounted in its state directory (null-netns, since 20260803). */
    if (remove(path) && errno == EBUSY && !umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW))
        remove(path);
    return 0;
}

/* Starts the sandbox. Stores its pid, or returns the exit status after a failure. */
static int start_sandbox(struct sandbox_wait *wait, const int fds[FDS], char **argv, pid_t *sandbox)
{
    struct un_error err;
    char **command = argv + 1;
    wait->enders[0] = fds[CREATOR];
    wait->enders[1] = fds[CONNECTION];
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

/* Waits until the sandbox or the guard has ended, and writes the exit status. Writes a byte to the
 * pipe `started` first, after which the creator may exit. */
static void keep_sandbox(struct sandbox_wait *wait, const int fds[FDS], int started, int guard,
                         pid_t sandbox)
{
    char text[16];
    /* A fork of the creator may also hold this descriptor, so closing it would not unlock. If this
     * fails, the directory stays in use until those forks exit. */
    flock(fds[LOCK], LOCK_UN);
    un_close_each(fds, FDS);
    /* Fails only if the parent was killed, which has then told the creator nothing. */
    un_write_all(started, "+", 1);
    close(started);
    wait->enders[0] = guard;
    wait->enders[1] = -1;
    /* If this fails, the directory of the creator can't be unmounted while the sandbox runs. */
    (void)!chdir("/");
    int status = sandbox_wait_for_exit(wait, sandbox, true, getpid());
    if (status == SANDBOX_KILLED && un_wait_readable(guard, 0) > 0)
        sandbox_write_text(wait->directory, "end", LOST);
    snprintf(text, sizeof text, "%d", status);
    sandbox_write_text(wait->directory, "status", text);
    kill_descendants(NULL);
    sandbox_group_remove(&wait->group);
}

/* Removes DIRECTORY, of which `lock` is a descriptor, and unlocks it. */
static void remove_directory(const char *directory, int lock)
{
    nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    flock(lock, LOCK_UN);
}

static int run_keeper(const int fds[FDS], const struct un_limits *limits, int started, int guard,
                      char **argv)
{
    struct sandbox_wait wait;
    pid_t sandbox;
    const char *directory = argv[1];
    sandbox_wait_init(&wait, argv + 3);
    wait.end_file = "end";
    /* Open for as long as the sandbox runs: the creator renames the directory. */
    wait.directory = openat(fds[LOCK], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (wait.directory < 0)
        return sandbox_fail(directory);
    if (adopt_descendants())
        return sandbox_fail(CHILDREN);
    int status = sandbox_wait_begin(&wait, limits, directory, true, fds[CONNECTION])
                     ? SANDBOX_FAILED
                     : start_sandbox(&wait, fds, argv + 2, &sandbox);
    if (!status) {
        keep_sandbox(&wait, fds, started, guard, sandbox);
        return 0;
    }
    kill_descendants(NULL);
    sandbox_group_remove(&wait.group);
    remove_directory(directory, fds[LOCK]);
    return status;
}

/* Waits until a byte is written to `started`, or the child that may write it has ended, and passes
 * SIGTERM on to the child. Returns whether the byte came. */
static bool wait_for_start(pid_t child, int started, int signals)
{
    char byte;
    struct pollfd fds[] = {{.fd = started, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    do {
        if (poll(fds, 2, -1) > 0 && fds[1].revents && sandbox_read_signals(signals))
            kill(child, SIGTERM);
    } while (!fds[0].revents);
    return un_read_all(started, &byte, 1) == 1;
}

/* Waits for the end of a child, and passes SIGTERM on to it. Returns the wait status. */
static int wait_for_end(pid_t child, int signals)
{
    int status = 0;
    struct pollfd polled = {.fd = signals, .events = POLLIN};
    while (waitpid(child, &status, WNOHANG) == 0)
        if (poll(&polled, 1, -1) > 0 && sandbox_read_signals(signals))
            kill(child, SIGTERM);
    return status;
}

/* Waits for the keeper, whose byte is read from `ours` and written to `started`. Ends the sandbox
 * if a signal kills the keeper. Returns the exit status. */
static int guard_keeper(pid_t keeper, const int fds[FDS], int ours, int started, int signals,
                        const char *directory)
{
    un_auto_close int place = openat(fds[LOCK], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool is_kept = wait_for_start(keeper, ours, signals);
    if (is_kept) {
        un_close_each(fds, FDS);
        /* Fails only if the parent was killed, which has then told the creator nothing. */
        un_write_all(started, "+", 1);
        close(started);
        (void)!chdir("/");
    }
    int status = wait_for_end(keeper, signals);
    if (!WIFSIGNALED(status))
        return un_exit_status_of(status);
    kill_descendants(NULL);
    if (is_kept) {
        sandbox_write_text(place, "end", LOST);
        sandbox_write_text(place, "status", "137");
    } else
        remove_directory(directory, fds[LOCK]);
    return SANDBOX_KILLED;
}

/* Starts the keeper, and guards it. Returns the exit status of this process or of the keeper. */
static int run_guard(const int fds[FDS], const struct un_limits *limits, int started,
                     const struct sigaction *sigchld, char **argv)
{
    int ends[2];
    sigset_t handled;
    sigemptyset(&handled);
    sigaddset(&handled, SIGCHLD);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    sigaddset(&handled, SIGTERM);
    int signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
    int self = un_pidfd_open(getpid());
    un_auto_close int nothing = un_open_null(O_RDWR);
    pid_t keeper =
        adopt_descendants() || signals < 0 || self < 0 || nothing < 0 || pipe2(ends, O_CLOEXEC)
            ? -1
            : un_fork();
    if (keeper < 0) {
        int failed = sandbox_fail("usernsctl-detach");
        remove_directory(argv[1], fds[LOCK]);
        return failed;
    }
    close(ends[keeper > 0]);
    if (keeper > 0) {
        close(self);
        sandbox_replace_stdio(nothing);
        return guard_keeper(keeper, fds, ends[0], started, signals, argv[1]);
    }
    sigdelset(&handled, SIGTERM);
    sigaction(SIGCHLD, sigchld, NULL);
    sigprocmask(SIG_UNBLOCK, &handled, NULL);
    close(signals);
    close(started);
    return run_keeper(fds, limits, ends[1], self, argv);
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
    pid_t guard = signals < 0 || pipe2(ends, O_CLOEXEC) ? -1 : un_fork();
    if (guard < 0)
        return sandbox_fail("usernsctl-detach");
    close(ends[guard > 0]);
    if (guard > 0) {
        int status = SANDBOX_FAILED << 8;
        if (wait_for_start(guard, ends[0], signals))
            return 0;
        waitpid(guard, &status, 0);
        return un_exit_status_of(status);
    }
    close(signals);
    return run_guard(fds, &limits, ends[1], &sigchld, argv + 4);
}
