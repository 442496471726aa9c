/* Tests of commands in a terminal. The agent copies the input of the terminal from a descriptor of
 * the host, and the terminal's output to another descriptor. */
#include "agent_process.h"

struct terminal_command {
    int socket;
    int in;  /* write end of the pipe for the input of the terminal */
    int out; /* read end of the pipe for the output of the terminal */
};

static struct terminal_command start_in_terminal(struct agent_process *agent, const char *script)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    int in[2], out[2];
    CHECK_INT(pipe2(in, O_CLOEXEC), 0);
    CHECK_INT(pipe2(out, O_CLOEXEC), 0);
    struct request request = {.argv = argv,
                              .flags = AGENT_TERMINAL,
                              .rows = 24,
                              .columns = 80,
                              .stdio = {in[0], out[1], 0}};
    struct terminal_command terminal_command = {send_request(agent, &request), in[1], out[0]};
    close(in[0]);
    close(out[1]);
    receive_start(terminal_command.socket);
    return terminal_command;
}

static void type(const struct terminal_command *terminal_command, const char *text)
{
    CHECK_INT(write(terminal_command->in, text, strlen(text)), (long long)strlen(text));
}

static void expect_output(const struct terminal_command *terminal_command, const char *text)
{
    char seen[4096];
    size_t length = 0;
    seen[0] = '\0';
    while (!strstr(seen, text)) {
        ssize_t part = read(terminal_command->out, seen + length, sizeof seen - 1 - length);
        if (part <= 0)
            CHECK_HAS(seen, text);
        length += (size_t)part;
        seen[length] = '\0';
    }
}

/* Reads the rest of the output into `text`. Returns the wait status of the command. */
static int finish_in_terminal(struct terminal_command *terminal_command, char *text, size_t size)
{
    read_all(terminal_command->out, text, size);
    int status = receive_end(terminal_command->socket);
    close(terminal_command->socket);
    close(terminal_command->in);
    return status;
}

static char text[65536];

static void it_is_a_terminal(struct agent_process *agent)
{
    struct terminal_command terminal_command =
        start_in_terminal(agent, "test -t 0 && test -t 1 && test -t 2 && stty size && "
                                 "echo ok >/dev/tty");
    CHECK_INT(finish_in_terminal(&terminal_command, text, sizeof text), 0);
    CHECK_TEXT(text, "24 80\r\nok\r\n");
}

static void the_size_may_change(struct agent_process *agent)
{
    struct terminal_command terminal_command = start_in_terminal(
        agent, "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.01; done");
    expect_output(&terminal_command, "ready");
    send_note(terminal_command.socket, AGENT_WINDOW, 0, 50 << 16 | 132);
    CHECK_INT(finish_in_terminal(&terminal_command, text, sizeof text), 3 << 8);
    CHECK_HAS(text, "50 132");
}

static void keys_are_signals(struct agent_process *agent)
{
    struct terminal_command terminal_command =
        start_in_terminal(agent, "trap 'exit 4' INT; echo ready; while :; do sleep 0.01; done");
    expect_output(&terminal_command, "ready");
    type(&terminal_command, "\003");
    CHECK_INT(finish_in_terminal(&terminal_command, text, sizeof text), 4 << 8);
}

static void end_of_input_is_typed(struct agent_process *agent)
{
    static const char *const typed[] = {"", "line\n", "no line"};
    for (size_t i = 0; i < COUNT(typed); i++) {
        struct terminal_command terminal_command =
            start_in_terminal(agent, "stty -echo; echo ready; cat; echo end");
        expect_output(&terminal_command, "ready\r\n");
        type(&terminal_command, typed[i]);
        close(terminal_command.in);
        terminal_command.in = dup(0);
        CHECK_INT(finish_in_terminal(&terminal_command, text, sizeof text), 0);
        CHECK_HAS(text, "end\r\n");
        CHECK(!strncmp(text, typed[i], strlen(typed[i]) - (i == 1)));
    }
}

/* Checks that a command whose output the host does not read does not block another command. */
static void a_slow_reader_does_not_block_other_commands(struct agent_process *agent)
{
    struct terminal_command slow =
        start_in_terminal(agent, "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done");
    struct terminal_command other = start_in_terminal(agent, "echo other");
    CHECK_INT(finish_in_terminal(&other, text, sizeof text), 0);
    size_t length = 0;
    ssize_t part;
    while ((part = read(slow.out, text, sizeof text)) > 0)
        length += (size_t)part;
    /* Each line consists of the digits, and of the CR and LF that the terminal adds. */
    CHECK_INT((long long)length, 10 + 90 * 2 + 900 * 3 + 9000 * 4 + 10000 * 5 + 20000 * 2);
    close(slow.out);
    slow.out = open("/dev/null", O_RDONLY);
    CHECK_INT(finish_in_terminal(&slow, text, sizeof text), 0);
}

static void a_closed_connection_hangs_up(struct agent_process *agent)
{
    struct terminal_command terminal_command =
        start_in_terminal(agent, "trap '' HUP; (setsid sleep 1000 &); echo ready; sleep 1000");
    expect_output(&terminal_command, "ready");
    close(terminal_command.socket);
    read_all(terminal_command.out, text, sizeof text);
    close(terminal_command.in);
}

int main(void)
{
    struct agent_process agent;
    start_agent(&agent);
    it_is_a_terminal(&agent);
    the_size_may_change(&agent);
    keys_are_signals(&agent);
    end_of_input_is_typed(&agent);
    a_slow_reader_does_not_block_other_commands(&agent);
    a_closed_connection_hangs_up(&agent);
    CHECK_INT(stop_agent(&agent), 0);
    return 0;
}
