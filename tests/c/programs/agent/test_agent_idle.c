/* Tests of idle keepers. A keeper is a child process of the agent that starts a command and waits
 * for its end, and is then idle until it gets another command. If the command is short, all this
 * may happen before the clone(2) that creates the keeper has returned in the agent. */
#include "agent_process.h"
#include "programs/agent/agent.h"

#define KEEPERS 2

/* State of the agent, in memory that the agent and all keepers share. */
struct shared {
    struct agent agent;
    struct agent_idle idle;
};

static void *share(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static struct agent_block *share_block(void)
{
    uintptr_t at = (uintptr_t)share(2UL * AGENT_BLOCK_SIZE) + AGENT_BLOCK_SIZE;
    return (struct agent_block *)(at - at % AGENT_BLOCK_SIZE);
}

/* Forks a keeper. The keeper closes `sockets`, the host's ends of all keepers' sockets. Otherwise
 * the keeper would never read end of file from its own socket. */
static pid_t start_keeper(struct agent_block *block, const int sockets[KEEPERS])
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        for (int i = 0; i < KEEPERS; i++)
            close(sockets[i]);
        _exit(agent_keep(block));
    }
    agent_close_fds(&block->request);
    return pid;
}

static int request_program(const struct agent_process *host, const char *program, const char *word)
{
    const char *const argv[] = {program, word, NULL};
    const struct request request = {.argv = argv};
    return send_request(host, &request);
}

static void check_ends(int socket, int status)
{
    CHECK_INT(receive_end(socket), status);
    close(socket);
}

static bool are_idle(const struct agent_idle *idle)
{
    return agent_idle_any(idle) && __atomic_load_n(&idle->waiting[0], __ATOMIC_SEQ_CST);
}

int main(void)
{
    int fd[2], sockets[KEEPERS];
    pid_t pid[KEEPERS];
    struct agent_block *block[KEEPERS];
    struct shared *shared = share(sizeof *shared);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    socket_pair(fd);
    const struct agent_process host = {.control = fd[0]};
    shared->agent = (struct agent){
        .pid = getpid(),
        .control = fd[1],
        .proc = -1,
        .uid = getuid(),
        .idle = &shared->idle,
    };
    for (int i = 0; i < KEEPERS; i++) {
        sockets[i] = request_program(&host, "true", NULL);
        block[i] = share_block();
        block[i]->agent = &shared->agent;
        CHECK_INT(agent_receive(fd[1], &block[i]->request), 1);
    }
    for (int i = 0; i < KEEPERS; i++)
        pid[i] = start_keeper(block[i], sockets);
    for (int i = 0; i < KEEPERS; i++) {
        receive_start(sockets[i]);
        check_ends(sockets[i], 0);
    }
    while (!are_idle(&shared->idle))
        usleep(1000);
    /* Both keepers are idle. While one keeper runs sleep(1), the other must run true(1). */
    int busy = request_program(&host, "sleep", "1000");
    receive_start(busy);
    int next = request_program(&host, "true", NULL);
    receive_start(next);
    check_ends(next, 0);
    send_note(busy, AGENT_SIGNAL, AGENT_TO_PROCESS, SIGKILL);
    check_ends(busy, SIGKILL);
    for (int i = 0; i < KEEPERS; i++) {
        CHECK_INT(block[i]->keeper, pid[i]);
        kill(pid[i], SIGKILL);
        CHECK_INT(wait_for(pid[i]), 128 + SIGKILL);
    }
    close(fd[0]);
    close(fd[1]);
    return 0;
}
