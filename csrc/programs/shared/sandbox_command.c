#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <sys/signalfd.h>

extern char **environ;

int sandbox_fail(const char *what)
{
    perror(what);
    return SANDBOX_FAILED;
}

static int take_fd(const char *word)
{
    uint64_t number;
    const char *end = un_number_read(word, INT_MAX, &number);
    if (!end || *end) {
        fprintf(stderr, "usernsctl: \"%s\" is not a descriptor\n", word);
        return -1;
    }
    int fd = (int)number;
    int taken = fd < 3 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : fd;
    if (taken < 0 || fcntl(taken, F_SETFD, FD_CLOEXEC)) {
        fprintf(stderr, "usernsctl: descriptor %s: %s\n", word, strerror(errno));
        return -1;
    }
    return taken;
}

int sandbox_take_fds(char **argv, int fds[], int count)
{
    for (int i = 0; i < count; i++) {
        fds[i] = take_fd(argv[i]);
        if (fds[i] < 0)
            return -1;
    }
    /* Close the original descriptors after all were duplicated, because two arguments may name the
     * same descriptor. */
    for (int i = 0; i < count; i++)
        if (fds[i] != atoi(argv[i]))
            close(atoi(argv[i]));
    return un_fill_stdio() ? sandbox_fail("/dev/null"), -1 : 0;
}

static _Noreturn void become_sandbox_command(char **argv, const struct sandbox_group *group,
                                             const sigset_t *mask, const struct sigaction *sigchld)
{
    if (sandbox_group_enter(group))
        _exit(sandbox_fail("can't enter the control group of the sandbox"));
    sigaction(SIGCHLD, sigchld, NULL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    un_make_fd_room();
    if (un_limit_open_files(UN_SANDBOX_FILES_MAX))
        _exit(sandbox_fail("RLIMIT_NOFILE"));
    execve(argv[0], argv, environ);
    perror(argv[0]);
    _exit(SANDBOX_FAILED);
}

/* Duplicates `nothing`, a descriptor of /dev/null, to standard input, output and error. Closing
 * them instead would let a file that is opened later become standard error and receive messages.
 * dup2(2) can't fail here, because the targets are open and the process has no threads. */
static void replace_stdio(int nothing)
{
    for (int fd = 0; fd < 3; fd++)
        dup2(nothing, fd);
}

pid_t sandbox_start_command(char **argv, const struct sandbox_group *group, int *signals)
{
    struct sigaction sigchld;
    sigset_t handled, before;
    un_default_sigchld(&sigchld);
    sigemptyset(&handled);
    sigaddset(&handled, SIGCHLD);
    sigaddset(&handled, SIGTERM);
    sigprocmask(SIG_BLOCK, &handled, &before);
    /* Unblock these signals for the command, because this program and not its caller has blocked
     * them (sandbox_wait_init()). */
    sigdelset(&before, SIGTERM);
    sigdelset(&before, SIGPIPE);
    un_auto_close int nothing = un_open_null(O_RDWR);
    *signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
    if (nothing < 0 || *signals < 0) {
        sandbox_fail(nothing < 0 ? "/dev/null" : "signalfd");
        return -1;
    }
    pid_t pid = un_fork();
    if (pid == 0)
        become_sandbox_command(argv, group, &before, &sigchld);
    if (pid < 0)
        sandbox_fail("fork");
    else
        replace_stdio(nothing);
    return pid;
}

bool sandbox_read_signals(int signals)
{
    struct signalfd_siginfo info;
    bool is_terminated = false;
    /* Ignore the pid in a SIGCHLD, because the kernel may merge the SIGCHLDs of several
     * children. */
    while (read(signals, &info, sizeof info) > 0)
        is_terminated = is_terminated || info.ssi_signo == SIGTERM;
    return is_terminated;
}
