/* Tests of commands that the agent starts: what they inherit, how they exit, and failures to start
 * them. */
#include "agent_process.h"

#include <sys/resource.h>
#include <sys/stat.h>

#define TEXT_SIZE 65536

static char text[TEXT_SIZE];

static void a_command_gets_what_was_asked_for(struct agent_process *agent)
{
    static const char *const env[] = {"PATH=/bin:/usr/bin", "A=b c", NULL};
    const struct agent_limit limits[] = {{RLIMIT_NOFILE, 40, 50}, {RLIMIT_CORE, 0, 0}};
    struct request request = {
        .envp = env, .cwd = "/usr", .umask = 027, .limits = limits, .limit_count = COUNT(limits)};
    int status =
        run_script(agent, "echo $A; pwd; umask; ulimit -n; ulimit -Hn", request, text, sizeof text);
    CHECK_INT(status, 0);
    CHECK_TEXT(text, "b c\n/usr\n0027\n40\n50\n");
}

static void a_command_has_only_its_own_descriptors(struct agent_process *agent)
{
    CHECK_INT(run_script(agent, "ls /proc/self/fd | tr '\\n' ' '", (struct request){0}, text,
                         sizeof text),
              0);
    /* `ls` also lists descriptor 3, by which it has opened /proc/self/fd itself. */
    CHECK_TEXT(text, "0 1 2 3 ");
}

static void a_command_has_no_signal_blocked_or_ignored(struct agent_process *agent)
{
    CHECK_INT(run_script(agent, "grep -E 'Sig(Blk|Ign)' /proc/self/status", (struct request){0},
                         text, sizeof text),
              0);
    CHECK_TEXT(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

static void a_command_leads_a_session_if_requested(struct agent_process *agent)
{
    const char *script = "set -- $(cat /proc/$$/stat); test $5 = $$ && test $6 = $$";
    struct request request = {.flags = AGENT_NEW_SESSION};
    CHECK_INT(run_script(agent, script, request, text, sizeof text), 0);
    request.flags = AGENT_NEW_GROUP;
    CHECK_INT(run_script(agent, script, request, text, sizeof text), 1 << 8);
}

static void the_status_of_a_command_is_reported(struct agent_process *agent)
{
    CHECK_INT(run_script(agent, "exit 7", (struct request){0}, text, sizeof text), 7 << 8);
    CHECK_INT(run_script(agent, "kill -KILL $$", (struct request){0}, text, sizeof text), SIGKILL);
}

static void the_program_may_be_another_one(struct agent_process *agent)
{
    const char *const argv[] = {"some name", "-c", "exit 3", NULL};
    struct request request = {.argv = argv, .program = "/bin/sh"};
    int socket = send_request(agent, &request);
    receive_start(socket);
    CHECK_INT(receive_end(socket), 3 << 8);
    close(socket);
}

static void check_start_fails(struct agent_process *agent, struct request request, int step,
                              int errnum)
{
    static const char *const found[] = {"true", NULL};
    if (!request.argv)
        request.argv = found;
    int socket = send_request(agent, &request);
    receive_failure(socket, step, errnum);
    /* The agent closes the command's socket after it has reported the failure. */
    CHECK_INT(receive_answer(socket).size, 0);
    close(socket);
}

/* Writes an executable file. `path` ends with XXXXXX, which is replaced so that the path is unique
 * (mkstemp(3)). */
static void make_program(char *path, const char *text)
{
    size_t length = strlen(text);
    int file = mkostemp(path, O_CLOEXEC);
    CHECK(file >= 0 && write(file, text, length) == (ssize_t)length && !fchmod(file, 0755));
    close(file);
}

static void a_failure_has_its_step(struct agent_process *agent)
{
    static const char *const missing[] = {"no-such-tool", NULL}, *const directory[] = {"/etc",
                                                                                       NULL};
    static const char *const absent[] = {"/no/such/tool", NULL}, *const empty[] = {"", NULL};
    static char path[] = "/tmp/usernsctl-agent-XXXXXX";
    const char *const text_file[] = {path, NULL}, *const below_file[] = {"/etc/passwd/x", NULL};
    const struct agent_limit unknown = {77, 1, 1};
    static char script[] = "/tmp/usernsctl-agent-XXXXXX";
    const char *const orphan[] = {script, NULL};
    make_program(path, "text\n");
    make_program(script, "#!/no/such/interpreter\n");

    check_start_fails(agent, (struct request){.argv = missing}, AGENT_STEP_LOOKUP, ENOENT);
    check_start_fails(agent, (struct request){.argv = absent}, AGENT_STEP_LOOKUP, ENOENT);
    check_start_fails(agent, (struct request){.argv = empty}, AGENT_STEP_LOOKUP, ENOENT);
    check_start_fails(agent, (struct request){.argv = below_file}, AGENT_STEP_LOOKUP, ENOTDIR);
    check_start_fails(agent, (struct request){.argv = directory}, AGENT_STEP_EXEC, EACCES);
    check_start_fails(agent, (struct request){.argv = text_file}, AGENT_STEP_EXEC, ENOEXEC);
    check_start_fails(agent, (struct request){.argv = orphan}, AGENT_STEP_EXEC, ENOENT);
    check_start_fails(agent, (struct request){.cwd = "/no/such"}, AGENT_STEP_CWD, ENOENT);
    check_start_fails(agent, (struct request){.limits = &unknown, .limit_count = 1},
                      AGENT_STEP_LIMITS, EINVAL);
    unlink(path);
    unlink(script);
}

static void long_strings_are_sent_in_a_file(struct agent_process *agent)
{
    static char word[100001];
    const char *argv[32] = {"sh", "-c", "echo $# ${#1} $(echo $1 | cksum)", "sh"};
    memset(word, 'x', sizeof word - 1);
    for (int i = 4; i < 24; i++)
        argv[i] = word;
    int out[2];
    CHECK_INT(pipe2(out, O_CLOEXEC), 0);
    struct request request = {.argv = argv, .flags = AGENT_STRINGS_APART, .stdio = {0, out[1], 0}};
    int socket = send_request(agent, &request);
    close(out[1]);
    receive_start(socket);
    read_all(out[0], text, sizeof text);
    CHECK_HAS(text, "20 100000 ");
    CHECK_INT(receive_end(socket), 0);
    close(socket);
}

static void a_string_that_is_too_long_is_reported(struct agent_process *agent)
{
    static char word[200001];
    memset(word, 'x', sizeof word - 1);
    const char *const argv[] = {"true", word, NULL};
    check_start_fails(agent, (struct request){.argv = argv, .flags = AGENT_STRINGS_APART},
                      AGENT_STEP_EXEC, E2BIG);
}

/* Checks that the agent starts other commands while the host writes the strings of a command
 * slowly, or closes the pipe without writing them. */
static void strings_in_a_pipe_are_waited_for(struct agent_process *agent)
{
    const char *const argv[] = {"sh", "-c", "exit 4", NULL};
    static char bytes[4096];
    int strings[2], no_strings[2];
    CHECK_INT(pipe2(strings, O_CLOEXEC), 0);
    CHECK_INT(pipe2(no_strings, O_CLOEXEC), 0);
    struct request request = {.argv = argv, .flags = AGENT_STRINGS_APART, .strings = no_strings[0]};
    struct agent_header header;
    size_t fixed = encode(&request, bytes);
    memcpy(&header, bytes, sizeof header);
    int given_up = send_request(agent, &request);
    close(given_up);
    request.strings = strings[0];
    int socket = send_request(agent, &request);
    CHECK_INT(run_script(agent, "exit 0", (struct request){0}, text, sizeof text), 0);
    CHECK_INT(write(strings[1], bytes + fixed, 5), 5);
    CHECK_INT(run_script(agent, "exit 0", (struct request){0}, text, sizeof text), 0);
    CHECK_INT(write(strings[1], bytes + fixed + 5, header.size - 5), header.size - 5);
    receive_start(socket);
    CHECK_INT(receive_end(socket), 4 << 8);
    close(socket);
    close(no_strings[0]);
    close(no_strings[1]);
    close(strings[0]);
    close(strings[1]);
}

static void send_to(struct agent_process *agent, const char *bytes, size_t size, int *socket,
                    size_t count)
{
    int own[2], fds[6];
    socket_pair(own);
    for (size_t i = 0; i < COUNT(fds); i++)
        fds[i] = own[1];
    send_message(agent->control, bytes, size, fds, count);
    close(own[1]);
    *socket = own[0];
}

static void malformed_messages_are_answered_by_an_error(struct agent_process *agent)
{
    static char bytes[AGENT_MESSAGE_MAX + 100];
    const char *const argv[] = {"true", NULL};
    struct request request = {.argv = argv};
    size_t fixed = encode(&request, bytes), size = fixed + sizeof "/" + sizeof "true" + 19;
    int socket;
    for (size_t cut = 0; cut < size; cut++) {
        send_to(agent, bytes, cut, &socket, 4);
        receive_failure(socket, AGENT_STEP_STRINGS, EPROTO);
        CHECK_INT(receive_answer(socket).size, 0);
        close(socket);
    }
    for (size_t count = 0; count <= 6; count++) {
        send_to(agent, bytes, size, &socket, count);
        if (count < 4)
            receive_failure(agent->control, AGENT_STEP_STRINGS, EPROTO);
        else if (count > 4)
            receive_failure(socket, AGENT_STEP_STRINGS, EPROTO);
        else
            receive_start(socket);
        close(socket);
    }
    send_to(agent, bytes, AGENT_MESSAGE_MAX + 100, &socket, 4);
    receive_failure(socket, AGENT_STEP_STRINGS, EPROTO);
    close(socket);
}

static void invalid_messages_of_the_host_are_rejected(struct agent_process *agent)
{
    int alive;
    pid_t pid;
    int socket = start_script(agent, "echo; exec sleep 100", &alive, &pid);
    const int wrong[][3] = {
        {9, 0, 0},
        {AGENT_SIGNAL, 3, SIGTERM},
        {AGENT_SIGNAL, 0, 65},
        {AGENT_SIGNAL, 0, -1},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        send_note(socket, wrong[i][0], wrong[i][1], wrong[i][2]);
        CHECK_INT(receive_answer(socket).note.kind, AGENT_REFUSED);
    }
    CHECK_INT(send(socket, "abc", 3, 0), 3);
    CHECK_INT(receive_answer(socket).note.kind, AGENT_REFUSED);
    send_note(socket, AGENT_SIGNAL, AGENT_TO_PROCESS, SIGTERM);
    CHECK_INT(receive_end(socket), SIGTERM);
    /* Signalling processes that have exited is not an error. */
    send_note(socket, AGENT_SIGNAL, AGENT_TO_PROCESS, SIGTERM);
    send_note(socket, AGENT_SIGNAL, AGENT_TO_GROUP, SIGTERM);
    send_note(socket, AGENT_SIGNAL, AGENT_TO_TREE, SIGTERM);
    close(socket);
    check_all_end(alive);
}

static void many_run_at_once(struct agent_process *agent)
{
    enum { MANY = 150 };
    const char *const argv[] = {"cat", NULL};
    int socket[MANY], in[2];
    CHECK_INT(pipe2(in, O_CLOEXEC), 0);
    struct request request = {.argv = argv, .stdio = {in[0], 0, 0}};
    for (int i = 0; i < MANY; i++)
        socket[i] = send_request(agent, &request);
    close(in[0]);
    for (int i = 0; i < MANY; i++)
        receive_start(socket[i]);
    close(in[1]);
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(receive_end(socket[i]), 0);
        close(socket[i]);
    }
}

static void the_usage_of_a_command_is_reported(struct agent_process *agent)
{
    const char *const argv[] = {"sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
                                NULL};
    struct request request = {.argv = argv};
    int socket = send_request(agent, &request);
    receive_start(socket);
    struct answer end = receive_answer(socket);
    CHECK_INT(end.note.kind, AGENT_ENDED);
    CHECK(end.more.used.user_us + end.more.used.system_us > 0);
    CHECK(end.more.used.rss_kib > 100);
    close(socket);
}

static void without_memory_commands_fail_and_the_agent_stays(void)
{
    static const char *const argv[] = {"true", NULL};
    const struct request request = {.argv = argv};
    struct agent_process agent;
    struct rlimit before;
    CHECK_INT(getrlimit(RLIMIT_AS, &before), 0);
    const struct rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
    start_agent_within(&agent, RLIMIT_AS, &none);
    for (int i = 0; i < 3; i++) {
        int socket = send_request(&agent, &request);
        receive_failure(socket, AGENT_STEP_FORK, ENOMEM);
        CHECK_INT(receive_answer(socket).size, 0);
        close(socket);
    }
    CHECK_INT(stop_agent(&agent), 0);
}

static void lost_descriptors_are_reported(void)
{
    static const char *const argv[] = {"true", NULL};
    const struct request request = {.argv = argv};
    struct agent_process agent;
    struct rlimit before;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
    /* The agent itself uses five descriptors, so it can receive only two of the four in the
     * message. */
    const struct rlimit few = {.rlim_cur = 7, .rlim_max = before.rlim_max};
    start_agent_within(&agent, RLIMIT_NOFILE, &few);
    int socket = send_request(&agent, &request);
    receive_failure(agent.control, AGENT_STEP_STRINGS, EMFILE);
    CHECK_INT(receive_answer(socket).size, 0);
    close(socket);
    CHECK_INT(stop_agent(&agent), 0);
}

int main(void)
{
    struct agent_process agent;
    without_memory_commands_fail_and_the_agent_stays();
    lost_descriptors_are_reported();
    start_agent(&agent);
    a_command_gets_what_was_asked_for(&agent);
    a_command_has_only_its_own_descriptors(&agent);
    a_command_has_no_signal_blocked_or_ignored(&agent);
    a_command_leads_a_session_if_requested(&agent);
    the_status_of_a_command_is_reported(&agent);
    the_program_may_be_another_one(&agent);
    a_failure_has_its_step(&agent);
    long_strings_are_sent_in_a_file(&agent);
    a_string_that_is_too_long_is_reported(&agent);
    strings_in_a_pipe_are_waited_for(&agent);
    malformed_messages_are_answered_by_an_error(&agent);
    invalid_messages_of_the_host_are_rejected(&agent);
    many_run_at_once(&agent);
    the_usage_of_a_command_is_reported(&agent);
    CHECK_INT(stop_agent(&agent), 0);
    return 0;
}
