/* Tests that all processes of a command end when the host's connection, the agent, or the command's
 * keeper ends. A keeper is the agent's child process that starts a command and waits for its
 * end. */
#include "agent_process.h"

/* Scripts, each of which prints a line once all its processes are running. */
static const char *const scripts[] = {
    "echo; exec sleep 1000",
    "sleep 1000 & echo; wait",
    "(setsid sh -c 'trap \"\" TERM HUP INT; echo; while :; do sleep 1; done' &); sleep 1000",
    "(setsid sh -c '(setsid sh -c \"(setsid sleep 1000 &) ; echo\" &)' &); sleep 1000",
    "setsid setsid setsid sleep 1000 & echo; kill -STOP $$; sleep 1000",
    "echo; while :; do (sleep 0.01 &); done",
};

/* The events that end a command: the command's socket is closed, the agent's socket is closed,
 * SIGKILL is sent to the command's process tree, or the agent or the command's keeper is killed. */
enum way { SOCKET, CONTROL, TREE, AGENT, KEEPER, WAYS };

static pid_t parent_of(pid_t pid)
{
    char path[64], text[512];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    read_all(file, text, sizeof text);
    CHECK_INT(sscanf(strrchr(text, ')'), ") %*c %d", &parent), 1);
    return parent;
}

static void nothing_is_left(const char *script, enum way way)
{

    struct agent_process agent;
    int alive;
    pid_t pid;
    start_agent(&agent);
    int socket = start_script(&agent, script, &alive, &pid);
    if (way == SOCKET)
        close(socket);
    if (way == CONTROL)
        close(agent.control);
    if (way == TREE)
        send_note(socket, AGENT_SIGNAL, AGENT_TO_TREE, SIGKILL);
    if (way == AGENT)
        kill(agent.pid, SIGKILL);
    if (way == KEEPER)
        kill(parent_of(pid), SIGKILL);
    check_all_end(alive);
    if (way == TREE) {
        CHECK_INT(receive_end(socket), SIGKILL);
        CHECK_INT(receive_answer(socket).size, 0);
    }
    if (way != SOCKET)
        close(socket);
    if (way != CONTROL)
        close(agent.control);
    CHECK_INT(wait_for(agent.pid), way == AGENT ? 128 + SIGKILL : 0);
}

/* Checks that a daemon survives its command once the host has received the command's exit status,
 * and that a signal to the process tree still kills the daemon. */
static void a_daemon_outlives_its_command(void)
{
    struct agent_process agent;
    int alive, again;
    pid_t pid;
    start_agent(&agent);
    int socket = start_script(&agent, "setsid sleep 1000 & echo", &alive, &pid);
    CHECK_INT(receive_end(socket), 0);
    close(socket);
    socket = start_script(&agent, "setsid sleep 1000 & echo", &again, &pid);
    CHECK_INT(receive_end(socket), 0);
    send_note(socket, AGENT_SIGNAL, AGENT_TO_TREE, SIGKILL);
    CHECK_INT(receive_answer(socket).size, 0);
    check_all_end(again);
    struct pollfd first = {.fd = alive, .events = POLLIN};
    CHECK_INT(poll(&first, 1, 0), 0);
    close(socket);
    CHECK_INT(stop_agent(&agent), 0);
    check_all_end(alive);
}

static void signals_reach_their_recipients(void)
{
    /* Each process in the script sets its trap before it starts the next one. */
    static const char script[] =
        "trap 'echo p' TERM; sh -c 'trap \"echo g; exit\" TERM; "
        "setsid sh -c \"trap \\\"echo t; exit\\\" TERM; echo; while :; do sleep 0.01; done\" & "
        "while :; do sleep 0.01; done' & while :; do sleep 0.01; done";
    static const char *const expected[] = {"p", "gp", "gpt"};
    for (int to = AGENT_TO_PROCESS; to <= AGENT_TO_TREE; to++) {
        struct agent_process agent;
        int alive;
        pid_t pid;
        char letters[16] = "", letter;
        start_agent(&agent);
        int socket = start_script(&agent, script, &alive, &pid);
        send_note(socket, AGENT_SIGNAL, to, SIGTERM);
        for (size_t i = 0; i < strlen(expected[to]);)
            if (read(alive, &letter, 1) == 1 && letter != '\n')
                letters[i++] = letter;
        for (const char *one = expected[to]; *one; one++)
            CHECK(strchr(letters, *one));
        close(socket);
        check_all_end(alive);
        CHECK_INT(stop_agent(&agent), 0);
    }
}

static void sigterm_is_forwarded_and_stops_new_commands(void)
{
    struct agent_process agent;
    int alive;
    pid_t pid;
    const char *const argv[] = {"true", NULL};
    struct request request = {.argv = argv};
    start_agent(&agent);
    int socket = start_script(&agent,
                              "trap 'exit 5' USR1; trap 'echo' TERM; echo; "
                              "while :; do sleep 0.01; done",
                              &alive, &pid);
    kill(agent.pid, SIGTERM);
    char line[8];
    CHECK(read(alive, line, sizeof line) > 0);
    int late = send_request(&agent, &request);
    receive_failure(late, AGENT_STEP_FORK, ESHUTDOWN);
    close(late);
    kill(pid, SIGUSR1);
    CHECK_INT(receive_end(socket), 5 << 8);
    close(socket);
    CHECK_INT(wait_for(agent.pid), 128 + SIGTERM);
    close(agent.control);
    check_all_end(alive);
}

int main(void)
{
    for (int way = 0; way < WAYS; way++)
        for (size_t i = 0; i < COUNT(scripts); i++)
            nothing_is_left(scripts[i], (enum way)way);
    a_daemon_outlives_its_command();
    signals_reach_their_recipients();
    sigterm_is_forwarded_and_stops_new_commands();
    return 0;
}
