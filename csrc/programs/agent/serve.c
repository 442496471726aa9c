#include "programs/agent/agent.h"
#include "sys/sys.h"

#include <errno.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Maximum number of children to reap before the next poll(2). */
#define AT_ONCE 32

struct server {
    struct agent agent;
    struct agent_blocks blocks;
    /* buffer for a message that arrives while no memory block for a keeper is available, and that
     * is answered with ENOMEM */
    struct agent_request refused;
    struct agent_idle idle;
    int signals;
    bool is_apart; /* whether commands can't send signals to the agent without CAP_KILL */
    bool more;     /* whether there may be exited children that are not reaped yet */
    bool ending;   /* whether SIGTERM has arrived, so that no more commands may be started */
    bool outlives; /* whether the agent continues after end of file on the control socket */
    /* whether a keeper (a process that runs commands) was killed, so that its command may now be a
     * child of the agent */
    bool has_lost;
};

static bool is_keeper(pid_t pid, void *arg)
{
    const struct server *server = arg;
    return agent_block_has(&server->blocks, pid);
}

static void forget_keeper(struct server *server, pid_t pid, int status)
{
    struct agent_block *block = agent_block_leave(&server->blocks, pid);
    if (!block)
        return;
    agent_idle_forget(&server->idle, block);
    if (!WIFEXITED(status))
        server->has_lost = true;
}

/* Reaps at most AT_ONCE children, keepers as well as orphans, so that a fork bomb cannot starve the
 * poll loop. Returns whether any child remains. */
static bool reap_keepers(void *arg)
{
    struct server *server = arg;
    int status;
    pid_t pid = 1;
    for (int i = 0; i < AT_ONCE && pid > 0; i++) {
        pid = waitpid(-1, &status, WNOHANG);
        if (pid > 0)
            forget_keeper(server, pid, status);
    }
    server->more = pid > 0;
    return pid >= 0;
}

/* Kills commands whose keeper was killed. Otherwise a command could kill its keeper, and then
 * survive a request to kill the command. */
static void kill_lost(struct server *server)
{
    if (server->has_lost && !agent_kill_others(server->agent.proc, is_keeper, server))
        server->has_lost = false;
}

static int run_keeper(void *arg)
{
    return agent_keep(arg);
}

static int start_keeper(struct server *server, struct agent_block *block)
{
    struct un_clone child = {
        .run = run_keeper, .arg = block, .exit_signal = SIGCHLD, .is_plain = true};
    if (server->agent.is_inside) {
        child.flags = CLONE_VM;
        child.stack = agent_block_stack(block);
    }
    block->agent = &server->agent;
    if (un_clone(&child))
        return errno;
    agent_block_use(&server->blocks, child.pid);
    return 0;
}

/* Receives a message that requests a command, and starts a keeper for it. Returns false if the host
 * has closed the socket. */
static bool take_command(struct server *server)
{
    struct agent_block *block = agent_block_free(&server->blocks);
    struct agent_request *request = block ? &block->request : &server->refused;
    int found = agent_receive(server->agent.control, request);
    if (found <= 0)
        return found;
    int errnum = server->ending ? ESHUTDOWN : block ? start_keeper(server, block) : ENOMEM;
    if (errnum)
        agent_answer_failure(request->fd[AGENT_SOCKET], AGENT_STEP_FORK, errnum);
    agent_close_fds(request);
    return true;
}

/* Sends SIGTERM to all keepers, which send it to their commands. */
static void pass_on_end(struct server *server)
{
    server->ending = true;
    for (const struct agent_block *block = server->blocks.used; block; block = block->next)
        kill(block->keeper, SIGTERM);
}

static void take_agent_signal(struct server *server)
{
    struct signalfd_siginfo info;
    if (read(server->signals, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGTERM)
        pass_on_end(server);
    else if (info.ssi_signo == AGENT_HELP_SIGNAL && server->agent.is_inside &&
             is_keeper((pid_t)info.ssi_pid, server))
        agent_kill_while_stopped(server->agent.proc, (pid_t)info.ssi_pid);
}

static int open_signals(void)
{
    sigset_t signals;
    un_block_signals();
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, AGENT_HELP_SIGNAL);
    /* AGENT_LISTEN_SIGNAL makes ppoll(2) return, so that the agent notices that there is no
     * listener. */
    sigaddset(&signals, AGENT_LISTEN_SIGNAL);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool say_hello(const struct server *server)
{
    int first = server->agent.pid == 1 ? AGENT_IS_FIRST : 0;
    int apart = server->is_apart ? AGENT_IS_APART : 0;
    const struct agent_hello hello = {
        .magic = AGENT_HELLO,
        .version = AGENT_VERSION,
        .flags = (uint16_t)(first | apart),
        .pid = (uint32_t)server->agent.pid,
    };
    return agent_answer(server->agent.control, &hello, sizeof hello);
}

static void kill_own_descendants_stopped(void *arg)
{
    const struct server *server = arg;
    agent_kill_while_stopped(server->agent.proc, server->agent.pid);
}

static void kill_descendants(struct server *server)
{
    const struct agent_killing how = {
        .reap = reap_keepers,
        /* Allow agent_kill_while_stopped() only in a sandbox. On the host, where tests run the
         * agent, it would stop all processes. */
        .get_help = server->agent.is_inside ? kill_own_descendants_stopped : NULL,
        .arg = server,
    };
    agent_kill_tree(server->agent.proc, &how);
}

static int serve(struct server *server)
{
    /* interval at which the agent searches /proc for orphans of a killed keeper */
    const struct timespec soon = {.tv_nsec = 10000000};
    struct pollfd polls[] = {
        {.fd = server->agent.control, .events = POLLIN},
        {.fd = server->signals, .events = POLLIN},
    };
    const struct timespec now = {0, 0};
    for (;;) {
        const struct timespec *most = server->has_lost ? &soon : NULL;
        polls[0].events = agent_idle_any(&server->idle) ? 0 : POLLIN;
        if (ppoll(polls, 2, server->more ? &now : most, NULL) < 0)
            continue;
        if (polls[1].revents)
            take_agent_signal(server);
        bool any = true;
        if (polls[1].revents || server->more || server->has_lost)
            any = reap_keepers(server);
        kill_lost(server);
        if (server->ending && !any)
            return 128 + SIGTERM;
        if (polls[0].revents == POLLIN && agent_idle_any(&server->idle))
            continue;
        if (polls[0].revents && !take_command(server)) {
            if (!server->outlives)
                return 0;
            kill_descendants(server);
            polls[0].fd = -1;
        }
    }
}

int agent_serve(int control, bool is_inside, bool outlives)
{
    static struct server server;
    struct agent *agent = &server.agent;
    *agent = (struct agent){
        .pid = getpid(),
        .is_inside = is_inside,
        .control = control,
        .uid = getuid(),
        .idle = is_inside ? &server.idle : NULL,
    };
    /* Set close-on-exec on all descriptors above 2, so that commands do not inherit a descriptor
     * that the host has passed to the agent by mistake. Ignore a failure of close_range(2), which
     * an old gVisor lacks. */
    syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC, 0, 0);
    agent->proc = agent_open_proc();
    server.signals = open_signals();
    if (server.signals < 0 || chdir("/"))
        return 1;
    agent_read_caps(&agent->caps);
    server.is_apart = agent_switch_to_unused_uid();
    server.outlives = outlives && agent->pid == 1;
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) ||
        !say_hello(&server))
        return 1;
    int status = serve(&server);
    /* Kill the remaining processes. If this process is PID 1 of its PID namespace, the kernel kills
     * them when this process exits. */
    if (agent->pid != 1)
        kill_descendants(&server);
    return status;
}
