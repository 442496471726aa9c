#include "base/base.h"
#include "programs/exec/exec.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static bool send_text(int socket, const char *text)
{
    return send(socket, text, strlen(text), MSG_NOSIGNAL) >= 0;
}

void un_hold_report(int socket, const struct un_error *err)
{
    char text[2 * UN_DETAIL_MAX + 128];
    int length =
        snprintf(text, sizeof text, "error %s %d %s %s%c%s", un_step_name(err->step), err->errnum,
                 err->cause ? err->cause : "-", err->detail, '\0', err->remedy);
    send(socket, text, (size_t)length, MSG_NOSIGNAL);
}

/* Sends descriptors of this process's namespaces to the creator (the process that requested the
 * namespaces), because other processes can't open them in /proc yet. Returns 0, or -1 with the
 * error in `err`. */
static int send_ready(int socket, struct un_error *err)
{
    static const char text[] = "ready";
    int fds[UN_NS_COUNT];
    un_auto_close int self = un_open_self(err);
    if (self < 0)
        return -1;
    for (int kind = 0; kind < UN_NS_COUNT; kind++) {
        fds[kind] = openat(self, un_ns_file(kind), O_RDONLY | O_CLOEXEC);
        if (fds[kind] < 0)
            return un_fail_errno(err, UN_STEP_FACTS, un_ns_file(kind));
    }
    if (!un_send(socket, text, sizeof text - 1, fds, UN_NS_COUNT))
        return un_fail_errno(err, UN_STEP_WAIT,
                             "can't send descriptors to the creator of the namespace");
    un_close_each(fds, UN_NS_COUNT);
    return 0;
}

/* Resets all signals to their default actions and unblocks them, as daemon(7) requires: what the
 * creator ignored or blocked must not keep SIGTERM from ending the holder. */
static void reset_signals(void)
{
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL);
    un_set_signals(0);
}

/* Makes this process a holder, which keeps its namespaces alive. Creates the network of the
 * namespaces, if one is requested, and stores a pidfd of usernsctl-network in *network. Starts a
 * session, and closes all descriptors except `socket` and *network. Returns 0, or -1 with the error
 * in `err`. */
static int prepare_holder(int socket, const struct un_options *options, int *network,
                          struct un_error *err)
{
    char **command = (char **)options->command;
    reset_signals();
    if (*command && network_join(&command, network, err))
        return -1;
    if (un_setup_apply(&options->setup, err))
        return -1;
    /* Ignore SIGCHLD, so that the kernel reaps orphans that this process adopts as PID 1 of a PID
     * namespace. */
    signal(SIGCHLD, SIG_IGN);
    if (setsid() < 0)
        return un_fail_errno(err, UN_STEP_SESSION, "setsid");
    if (chdir("/"))
        return un_fail_errno(err, UN_STEP_CWD, "/");
    int keep[] = {socket, *network};
    if (un_close_fds(keep, un_sort_fds(keep, *network < 0 ? 1 : 2), err))
        return -1;
    /* Close standard input, output and error. If one of them is the write end of a pipe, the reader
     * does not reach end of file while the holder keeps it open. */
    for (int fd = 0; fd < 3; fd++)
        if (fd != socket && fd != *network)
            close(fd);
    return 0;
}

/* Waits until usernsctl-network exits, or forever if there is no network. */
static void wait_for_end(int network)
{
    struct pollfd polled = {.fd = network, .events = POLLIN};
    while (poll(&polled, 1, -1) < 0 && errno == EINTR)
        continue;
}

/* Sets the process name of the holder, which from now on outlives its creator. Makes the process
 * dumpable, so that other processes can open its namespaces in /proc. Other processes can then also
 * read the holder's memory, which contains no secrets, and use its only descriptors, the socket and
 * a pidfd. Returns 0, or -1 with the error in `err`. */
static int show_holder(struct un_error *err)
{
    if (prctl(PR_SET_NAME, UN_HOLDER_NAME, 0, 0, 0))
        return un_fail_errno(err, UN_STEP_SESSION, "PR_SET_NAME");
    if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
        return un_fail_errno(err, UN_STEP_SESSION, "PR_SET_DUMPABLE");
    return 0;
}

static _Noreturn void become_holder(int socket, const struct un_options *options)
{
    struct un_error err;
    char answer;
    int network = -1;
    if (prepare_holder(socket, options, &network, &err) || send_ready(socket, &err)) {
        un_diagnose(&err, "/proc");
        un_hold_report(socket, &err);
        _exit(125);
    }
    if (un_read_all(socket, &answer, 1) != 1)
        _exit(125);
    if (show_holder(&err)) {
        un_hold_report(socket, &err);
        _exit(125);
    }
    close(socket);
    wait_for_end(network);
    /* Exit, so that the namespaces do not outlive their network. */
    _exit(125);
}

void un_forget_environment(char **environment)
{
    for (; *environment; environment++)
        if (strncmp(*environment, "PATH=", 5))
            memset(*environment, 0, strlen(*environment));
}

int un_hold(const struct un_options *options, struct un_error *err)
{
    /* Do not wait for the holder: another process adopts it when this process exits. */
    pid_t holder = un_fork();
    if (holder < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "fork");
    if (holder == 0)
        become_holder(options->hold, options);
    char text[32];
    snprintf(text, sizeof text, "pid %d", (int)holder);
    if (send_text(options->hold, text))
        return 0;
    un_fail_errno(err, UN_STEP_WAIT, "the process that asked for the namespace has exited");
    kill(holder, SIGKILL);
    return -1;
}
