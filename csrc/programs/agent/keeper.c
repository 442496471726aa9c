#include "programs/agent/agent.h"
#include "sys/sys.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The state of a keeper, the process that runs a command until no process of the command
 * remains. */
struct keeper {
    const struct agent *agent;
    struct agent_block *block;
    bool listens; /* whether this keeper receives the message for the next command (idle.c) */
    int socket;   /* socket to the host for this command, or -1 after the host has closed it */
    int signals;  /* signalfd for SIGCHLD, SIGTERM and AGENT_LISTEN_SIGNAL */
    /* top of the stack for the command until its execve(2), or NULL to use the keeper's stack */
    void *stack;
    pid_t command;
    /* whether the agent is exiting, so that this keeper must not run another command */
    bool ending;
    bool ended; /* whether the command was reaped, and its exit status was sent to the host */
    bool more;  /* whether there may be exited children that are not reaped yet */
    bool empty; /* whether no process of the command remains */
    struct agent_terminal terminal;
};

/* Maximum number of children to reap before the next poll(2). */
#define AT_ONCE 32

enum { POLL_SOCKET, POLL_SIGNALS, POLL_CONTROL, POLL_TERMINAL };
#define POLLS (POLL_TERMINAL + AGENT_TERMINAL_POLLS)

static uint64_t microseconds(const struct timeval *time)
{
    return (uint64_t)time->tv_sec * 1000000 + (uint64_t)time->tv_usec;
}

static void send_status(struct keeper *keeper, int status, const struct rusage *used)
{
    const struct agent_end end = {
        .note = {.kind = AGENT_ENDED, .value = status},
        .user_us = microseconds(&used->ru_utime),
        .system_us = microseconds(&used->ru_stime),
        .rss_kib = (uint64_t)used->ru_maxrss,
    };
    keeper->ended = true;
    if (keeper->socket >= 0)
        agent_answer(keeper->socket, &end, sizeof end);
}

/* Reaps at most AT_ONCE children, so that a fork bomb cannot starve the poll loop. Returns whether
 * any child remains. */
static bool reap_for_keeper(void *arg)
{
    struct keeper *keeper = arg;
    struct rusage used;
    int status;
    pid_t pid = 1;
    for (int i = 0; i < AT_ONCE && pid > 0; i++) {
        pid = wait4(-1, &status, WNOHANG, &used);
        /* Check that the command was not reaped before, because another process may since have got
         * its pid. */
        if (pid > 0 && pid == keeper->command && !keeper->ended)
            send_status(keeper, status, &used);
    }
    keeper->more = pid > 0;
    keeper->empty = pid < 0;
    return !keeper->empty;
}

/* Asks the agent to kill this keeper's descendants while all processes are stopped. Only the agent
 * may stop all processes, because two keepers would stop each other. */
static void request_help(void *arg)
{
    const struct keeper *keeper = arg;
    kill(keeper->agent->pid, AGENT_HELP_SIGNAL);
}

/* Makes another keeper receive the messages for new commands (idle.c). Called if such a message has
 * arrived while this keeper is busy, or if this keeper is about to stop polling. */
static void stop_listening(void *arg)
{
    struct keeper *keeper = arg;
    if (keeper->listens)
        agent_idle_pass_on(keeper->agent->idle, keeper->block, keeper->agent->pid);
    keeper->listens = false;
}

static void kill_descendants_of_keeper(struct keeper *keeper)
{
    stop_listening(keeper);
    const struct agent_killing how = {
        .reap = reap_for_keeper,
        .get_help = keeper->agent->is_inside ? request_help : NULL,
        .arg = keeper,
        .group = keeper->command,
        .has_lost_leader = &keeper->ended,
    };
    agent_kill_tree(keeper->agent->proc, &how);
}

/* Sends a signal to the process group of the command. The command must not be reaped yet. Uses
 * /proc only if the command has joined the group of this keeper, because a signal to that whole
 * group would also reach this keeper. All other groups in the session of this keeper, and in the
 * sessions of its descendants, contain only descendants of this keeper. */
static void signal_group(const struct keeper *keeper, int sig)
{
    pid_t group = getpgid(keeper->command);
    if (group == getpgid(0))
        agent_signal_tree(keeper->agent->proc, group, sig);
    else if (group > 0)
        kill(-group, sig);
}

static void send_signal(struct keeper *keeper, int to, int sig)
{
    /* Send no signal after the command was reaped, because the kernel may have reused its pid. */
    if (to == AGENT_TO_PROCESS && !keeper->ended)
        kill(keeper->command, sig);
    if (to == AGENT_TO_GROUP && !keeper->ended)
        signal_group(keeper, sig);
    if (to == AGENT_TO_TREE && sig == SIGKILL) {
        kill_descendants_of_keeper(keeper);
        /* Send end of file to the host, to report that no process of the command remains. */
        shutdown(keeper->socket, SHUT_WR);
    } else if (to == AGENT_TO_TREE) {
        agent_signal_tree(keeper->agent->proc, 0, sig);
    }
}

/* Performs a request from the host: sends a signal, or resizes the terminal. Returns 0 or an
 * errno. */
static int perform_request(struct keeper *keeper, const struct agent_note *note, size_t size)
{
    if (size != sizeof *note)
        return EPROTO;
    if (note->kind == AGENT_SIGNAL) {
        if (note->to > AGENT_TO_TREE || note->value < 0 || note->value >= NSIG)
            return EINVAL;
        send_signal(keeper, note->to, note->value);
        return 0;
    }
    if (note->kind == AGENT_WINDOW) {
        uint32_t size_asked = (uint32_t)note->value;
        agent_terminal_resize(&keeper->terminal, (uint16_t)(size_asked >> 16),
                              (uint16_t)size_asked);
        /* Pass no process group after the command was reaped, because the kernel may have reused
         * the id of its group. */
        agent_terminal_signal_resize(&keeper->terminal, keeper->ended ? 0 : keeper->command);
        return 0;
    }
    return EPROTO;
}

/* Receives and performs one request from the host. At end of file, closes the socket, and kills a
 * command that still runs. */
static void receive_request(struct keeper *keeper)
{
    struct agent_note note[2];
    ssize_t size = recv(keeper->socket, note, sizeof note, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        close(keeper->socket);
        keeper->socket = -1;
        /* Kill the command's processes only if the command's exit status was not sent to the host
         * yet. After that, background processes of the command may outlive the socket. */
        if (!keeper->ended)
            kill_descendants_of_keeper(keeper);
        agent_terminal_close(&keeper->terminal);
        return;
    }
    int errnum = perform_request(keeper, note, (size_t)size);
    const struct agent_note refused = {.kind = AGENT_REFUSED, .value = errnum};
    if (errnum)
        agent_answer(keeper->socket, &refused, sizeof refused);
}

static void end_with_agent(struct keeper *keeper)
{
    kill_descendants_of_keeper(keeper);
    _exit(0);
}

/* Reads one signal. SIGTERM comes from the agent to end the command, or from the kernel as the
 * parent-death signal, after the agent has exited. Any other signal only wakes the keeper. */
static void take_keeper_signal(struct keeper *keeper)
{
    struct signalfd_siginfo info;
    if (read(keeper->signals, &info, sizeof info) != sizeof info || info.ssi_signo != SIGTERM)
        return;
    if (getppid() != keeper->agent->pid)
        end_with_agent(keeper);
    if ((pid_t)info.ssi_pid != keeper->agent->pid)
        return;
    keeper->ending = true;
    if (keeper->command > 0)
        send_signal(keeper, AGENT_TO_PROCESS, SIGTERM);
}

static bool is_done(struct keeper *keeper)
{
    return keeper->empty && keeper->socket < 0;
}

/* Closes the terminal and the host's descriptor for the output if no process of the command remains
 * and all output was written. The host reads the output until end of file. */
static void end_output(struct keeper *keeper)
{
    struct agent_terminal *terminal = &keeper->terminal;
    if (!keeper->empty || terminal->output < 0 || !agent_terminal_drained(terminal))
        return;
    agent_terminal_close(terminal);
    close(terminal->output);
    terminal->output = -1;
}

static void wait_for_keeper_event(struct keeper *keeper)
{
    struct pollfd polls[POLLS] = {
        [POLL_SOCKET] = {.fd = keeper->socket, .events = POLLIN},
        [POLL_SIGNALS] = {.fd = keeper->signals, .events = POLLIN},
        [POLL_CONTROL] = {.fd = keeper->listens ? keeper->agent->control : -1, .events = POLLIN},
    };
    agent_terminal_polls(&keeper->terminal, polls + POLL_TERMINAL);
    const struct timespec now = {0, 0};
    if (ppoll(polls, POLLS, keeper->more ? &now : NULL, NULL) < 0)
        return;
    if (polls[POLL_SIGNALS].revents)
        take_keeper_signal(keeper);
    if (polls[POLL_SIGNALS].revents || keeper->more)
        reap_for_keeper(keeper);
    /* Copy before receive_request(), which closes the terminal if the host has closed the socket.
     * Input that the host has sent before it closed the socket would otherwise be lost. */
    agent_terminal_copy(&keeper->terminal, polls + POLL_TERMINAL);
    if (keeper->socket >= 0 && polls[POLL_SOCKET].revents)
        receive_request(keeper);
    end_output(keeper);
    if (polls[POLL_CONTROL].revents && !is_done(keeper))
        stop_listening(keeper);
}

/* Makes the kernel send SIGTERM to this process when the agent exits. Returns 0, or -1 with errno
 * set: ESRCH if the agent has already exited. */
static int die_with_agent(const struct keeper *keeper)
{
    if (prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0))
        return -1;
    errno = ESRCH;
    return getppid() == keeper->agent->pid ? 0 : -1;
}

/* Makes this process a subreaper that reads its signals from a signalfd, and that receives SIGTERM
 * when the agent exits. Returns 0, or -1 with errno set. */
static int become_keeper(struct keeper *keeper)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, AGENT_LISTEN_SIGNAL);
    keeper->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (keeper->signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) || die_with_agent(keeper))
        return -1;
    /* Leave the agent's session, so that the terminals of commands send no signals to this
     * keeper. */
    setsid();
    return 0;
}

static int open_terminal(struct keeper *keeper, struct agent_start *start,
                         const struct agent_request *request)
{
    const struct agent_header *header = &start->message->header;
    memcpy(start->stdio, request->fd, sizeof start->stdio);
    start->has_terminal = header->flags & AGENT_TERMINAL;
    if (!start->has_terminal)
        return 0;
    /* Create the terminal with the command's effective uid, because the command's user must own the
     * terminal. */
    uid_t uid = header->flags & AGENT_IDS ? header->uid : keeper->agent->uid;
    uid_t own = agent_set_effective_uid(uid);
    int other = agent_terminal_open(&keeper->terminal, request->fd[AGENT_STDIN],
                                    request->fd[AGENT_STDOUT], header->rows, header->columns);
    int errnum = errno;
    agent_restore_uid(own);
    errno = errnum;
    for (int i = 0; i < 3; i++)
        start->stdio[i] = other;
    /* Set the parent-death signal again, because the kernel has cleared it when the effective uid
     * changed (PR_SET_PDEATHSIG(2const)). */
    return other < 0 ? -1 : die_with_agent(keeper);
}

/* Starts the command, and closes the descriptors that only the command needs. Returns 0, or -1
 * after sending the error to the host. */
static int start_command(struct keeper *keeper, struct agent_request *request,
                         const struct agent_wait *wait, const struct agent_loaded *loaded)
{
    struct agent_start start = {
        .agent = keeper->agent,
        .message = &loaded->message,
        .strings = &loaded->strings,
        .groups = loaded->groups,
        .wait = *wait,
        .stack = keeper->stack,
    };
    if (open_terminal(keeper, &start, request)) {
        agent_answer_failure(keeper->socket, AGENT_STEP_TERMINAL, errno);
        return -1;
    }
    keeper->command = agent_start_command(&start);
    if (keeper->command < 0) {
        agent_answer_failure(keeper->socket, start.step, start.errnum);
        return -1;
    }
    const struct agent_note started = {.kind = AGENT_STARTED, .value = keeper->command};
    agent_answer(keeper->socket, &started, sizeof started);
    if (start.has_terminal)
        close(start.stdio[0]);
    int kept = start.has_terminal ? AGENT_STDERR : AGENT_STDIN;
    un_close_each(request->fd + kept, (size_t)(AGENT_SOCKET - kept));
    return 0;
}

/* Loads the message that requests a command, and starts the command. Returns 0, or -1 after sending
 * the error to the host. */
static int start_kept(struct keeper *keeper, struct agent_request *request)
{
    struct agent_loaded loaded;
    const struct agent_wait wait = {
        .socket = keeper->socket,
        .other = keeper->listens ? keeper->agent->control : -1,
        .notify = stop_listening,
        .arg = keeper,
    };
    int errnum = agent_load(request, &wait, &loaded);
    if (errnum)
        agent_answer_failure(keeper->socket, AGENT_STEP_STRINGS, errnum);
    int failed = errnum ? -1 : start_command(keeper, request, &wait, &loaded);
    agent_unload(&loaded);
    return failed;
}

/* Runs one command until none of its processes remains and the host has closed the socket. Returns
 * whether this keeper may run another command. Returns false if the command failed to start, or had
 * a terminal. */
static bool keep_command(struct keeper *keeper, struct agent_request *request)
{
    keeper->socket = request->fd[AGENT_SOCKET];
    keeper->command = 0;
    keeper->ended = keeper->more = keeper->empty = false;
    if (start_kept(keeper, request))
        return false;
    bool had_terminal = keeper->terminal.master >= 0;
    while (!is_done(keeper))
        wait_for_keeper_event(keeper);
    keeper->command = 0;
    return !had_terminal;
}

/* Waits for the message that requests the next command. Returns true when the message was received,
 * or false if this keeper must exit. */
static bool await_request(struct keeper *keeper, struct agent_block *block)
{
    struct agent_idle *idle = keeper->agent->idle;
    if (!idle || keeper->ending || !(keeper->listens || agent_idle_join(idle, block)))
        return false;
    while (!keeper->ending) {
        bool listens = keeper->listens = agent_idle_listens(idle, block);
        struct pollfd polls[] = {
            {.fd = keeper->signals, .events = POLLIN},
            {.fd = keeper->agent->control, .events = listens ? POLLIN : 0},
        };
        if (ppoll(polls, 2, NULL, NULL) < 0)
            continue;
        if (polls[0].revents)
            take_keeper_signal(keeper);
        if (keeper->ending || !polls[1].revents)
            continue;
        int found = agent_receive(keeper->agent->control, &block->request);
        if (found >= 0)
            return found;
    }
    return false;
}

int agent_keep(struct agent_block *block)
{
    struct keeper keeper = {
        .agent = block->agent,
        .block = block,
        .stack = block->agent->idle ? agent_block_command_stack(block) : NULL,
        .terminal = {.master = -1, .input = -1, .output = -1},
    };
    /* Set the pid here, too. The agent sets the pid only after its clone(2) has returned, and
     * another keeper may send a signal to this keeper earlier. */
    block->keeper = getpid();
    if (become_keeper(&keeper)) {
        agent_answer_failure(block->request.fd[AGENT_SOCKET], AGENT_STEP_FORK, errno);
        return 1;
    }
    while (keep_command(&keeper, &block->request))
        if (!await_request(&keeper, block))
            return 0;
    return 1;
}
