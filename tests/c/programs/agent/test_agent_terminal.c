/* Tests of commands with a terminal whose input and output are the host's descriptors. */
#include "served.h"

struct sitting {
    int socket;
    int in;  /* the write end of a pipe to the terminal's input */
    int out; /* the read end of a pipe with the terminal's output */
};

static struct sitting sit(struct served *agent, const char *script)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    int in[2], out[2];
    CHECK_INT(pipe2(in, O_CLOEXEC), 0);
    CHECK_INT(pipe2(out, O_CLOEXEC), 0);
    struct asked asked = {.argv = argv,
                          .flags = AGENT_TERMINAL,
                          .rows = 24,
                          .columns = 80,
                          .stdio = {in[0], out[1], 0}};
    struct sitting sitting = {ask(agent, &asked), in[1], out[0]};
    close(in[0]);
    close(out[1]);
    hear_start(sitting.socket);
    return sitting;
}

static void type(const struct sitting *sitting, const char *text)
{
    CHECK_INT(write(sitting->in, text, strlen(text)), (long long)strlen(text));
}

static void see(const struct sitting *sitting, const char *text)
{
    char seen[4096];
    size_t length = 0;
    seen[0] = '\0';
    while (!strstr(seen, text)) {
        ssize_t part = read(sitting->out, seen + length, sizeof seen - 1 - length);
        if (part <= 0)
            CHECK_HAS(seen, text);
        length += (size_t)part;
        seen[length] = '\0';
    }
}

/* Reads the remaining output; returns the command's wait status. */
static int rise(struct sitting *sitting, char *text, size_t size)
{
    read_all(sitting->out, text, size);
    int status = hear_end(sitting->socket);
    close(sitting->socket);
    close(sitting->in);
    return status;
}

static char text[65536];

static void it_is_a_terminal(struct served *agent)
{
    struct sitting sitting = sit(agent, "test -t 0 && test -t 1 && test -t 2 && stty size && "
                                        "echo ok >/dev/tty");
    CHECK_INT(rise(&sitting, text, sizeof text), 0);
    CHECK_TEXT(text, "24 80\r\nok\r\n");
}

static void its_size_may_change(struct served *agent)
{
    struct sitting sitting =
        sit(agent, "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.01; done");
    see(&sitting, "ready");
    tell(sitting.socket, AGENT_WINDOW, 0, 50 << 16 | 132);
    CHECK_INT(rise(&sitting, text, sizeof text), 3 << 8);
    CHECK_HAS(text, "50 132");
}

static void keys_are_signals(struct served *agent)
{
    struct sitting sitting =
        sit(agent, "trap 'exit 4' INT; echo ready; while :; do sleep 0.01; done");
    see(&sitting, "ready");
    type(&sitting, "\003");
    CHECK_INT(rise(&sitting, text, sizeof text), 4 << 8);
}

static void input_ends_as_a_user_ends_it(struct served *agent)
{
    static const char *const typed[] = {"", "line\n", "no line"};
    for (size_t i = 0; i < COUNT(typed); i++) {
        struct sitting sitting = sit(agent, "stty -echo; echo ready; cat; echo end");
        see(&sitting, "ready\r\n");
        type(&sitting, typed[i]);
        close(sitting.in);
        sitting.in = dup(0);
        CHECK_INT(rise(&sitting, text, sizeof text), 0);
        CHECK_HAS(text, "end\r\n");
        CHECK(!strncmp(text, typed[i], strlen(typed[i]) - (i == 1)));
    }
}

/* Terminal output that the host does not read must not block another command. */
static void a_slow_reader_keeps_nobody_else_waiting(struct served *agent)
{
    struct sitting slow = sit(agent, "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done");
    struct sitting other = sit(agent, "echo other");
    CHECK_INT(rise(&other, text, sizeof text), 0);
    size_t length = 0;
    ssize_t part;
    while ((part = read(slow.out, text, sizeof text)) > 0)
        length += (size_t)part;
    /* Each line has its digits, and CR and LF from the terminal. */
    CHECK_INT((long long)length, 10 + 90 * 2 + 900 * 3 + 9000 * 4 + 10000 * 5 + 20000 * 2);
    close(slow.out);
    slow.out = open("/dev/null", O_RDONLY);
    CHECK_INT(rise(&slow, text, sizeof text), 0);
}

static void who_goes_away_hangs_up(struct served *agent)
{
    struct sitting sitting =
        sit(agent, "trap '' HUP; (setsid sleep 1000 &); echo ready; sleep 1000");
    see(&sitting, "ready");
    close(sitting.socket);
    read_all(sitting.out, text, sizeof text);
    close(sitting.in);
}

int main(void)
{
    struct served agent;
    start_agent(&agent);
    it_is_a_terminal(&agent);
    its_size_may_change(&agent);
    keys_are_signals(&agent);
    input_ends_as_a_user_ends_it(&agent);
    a_slow_reader_keeps_nobody_else_waiting(&agent);
    who_goes_away_hangs_up(&agent);
    CHECK_INT(stop_agent(&agent), 0);
    return 0;
}
