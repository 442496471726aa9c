#include "programs/agent/serve.h"
#include "programs/agent/keeper.h"
#include "programs/agent/tree.h"
#include "sys/clone.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct server {
    struct agent agent;
    int signals;
    bool ending; /* SIGTERM has come */
    struct agent_letter letter;
};

/* Keepers are all the children that we have made; who else comes to be our child is left over. */
static bool reap(void *arg)
{
    (void)arg;
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0 || (pid < 0 && errno == EINTR))
        continue;
    return pid == 0;
}

static int keep(void *arg)
{
    struct server *server = arg;
    close(server->signals);
    return agent_keep(&server->agent, &server->letter);
}

static void start_keeper(struct server *server)
{
    struct agent_letter *letter = &server->letter;
    struct un_clone child = {.run = keep, .arg = server, .exit_signal = SIGCHLD};
    if (letter->fds < AGENT_WORDS) {
        agent_answer_failure(server->agent.control, AGENT_STEP_WORDS, EPROTO);
        return;
    }
    if (server->ending)
        agent_answer_failure(letter->fd[AGENT_SOCKET], AGENT_STEP_FORK, ESHUTDOWN);
    else if (un_clone(&child))
        agent_answer_failure(letter->fd[AGENT_SOCKET], AGENT_STEP_FORK, errno);
}

/* Takes one command; false: the host is gone. */
static bool take_command(struct server *server)
{
    int found = agent_receive(server->agent.control, &server->letter);
    if (found > 0) {
        start_keeper(server);
        agent_close_fds(&server->letter);
    }
    return found;
}

static void take_signals(struct server *server)
{
    struct signalfd_siginfo info;
    while (read(server->signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo == SIGTERM)
            server->ending = true;
}

static int open_signals(void)
{
    sigset_t heard;
    un_block_signals();
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, SIGTERM);
    return signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool say_hello(const struct server *server)
{
    const struct agent_hello hello = {
        .magic = AGENT_HELLO,
        .version = AGENT_VERSION,
        .flags = server->agent.pid == 1 ? AGENT_IS_FIRST : 0,
        .pid = (uint32_t)server->agent.pid,
    };
    return agent_answer(server->agent.control, &hello, sizeof hello);
}

static int serve(struct server *server)
{
    struct pollfd polls[] = {
        {.fd = server->agent.control, .events = POLLIN},
        {.fd = server->signals, .events = POLLIN},
    };
    for (;;) {
        if (ppoll(polls, 2, NULL, NULL) < 0)
            continue;
        if (polls[1].revents)
            take_signals(server);
        bool any = reap(NULL);
        if (server->ending && !any)
            return 128 + SIGTERM;
        if (polls[0].revents && !take_command(server))
            return 0;
    }
}

int agent_serve(int control)
{
    static struct server server;
    server.agent = (struct agent){.pid = getpid(), .control = control, .proc = agent_open_proc()};
    server.signals = open_signals();
    if (server.signals < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) ||
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) || !say_hello(&server))
        return 1;
    int status = serve(&server);
    agent_kill_tree(server.agent.proc, reap, NULL);
    return status;
}
