/* Functions that run usernsctl-agent outside of a sandbox, on the host's kernel, and communicate
 * with the agent as the Python class SandboxHost does. */
#ifndef AGENT_PROCESS_H
#define AGENT_PROCESS_H

#include "forked.h"
#include "programs/agent/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

struct agent_process {
    int control;
    pid_t pid;
};

/* A command to start. Members that are 0 or NULL are left out of the message. */
struct request {
    const char *const *argv;
    const char *const *envp;
    const char *cwd;
    const char *program;
    unsigned flags;
    const struct agent_limit *limits;
    unsigned limit_count;
    uint32_t umask; /* umask of the command; 0 for the agent's umask */
    int stdio[3];   /* descriptors that become standard input, output and error; 0 for /dev/null */
    uint16_t rows;
    uint16_t columns;
    int strings; /* with AGENT_STRINGS_APART in `flags`: descriptor to which the message's strings
                    are written; 0 for a memfd */
};

static inline void socket_pair(int fd[2])
{
    CHECK_INT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd), 0);
}

static inline void start_agent_within(struct agent_process *agent, int resource,
                                      const struct rlimit *limit)
{
    int fd[2];
    socket_pair(fd);
    agent->pid = fork();
    CHECK(agent->pid >= 0);
    if (!agent->pid) {
        if (limit && setrlimit((unsigned)resource, limit))
            _exit(1);
        close(fd[0]);
        dup2(fd[1], STDIN_FILENO);
        close(fd[1]);
        _exit(agent_serve(STDIN_FILENO, false, false));
    }
    close(fd[1]);
    agent->control = fd[0];
    struct agent_hello hello;
    CHECK_INT(recv(fd[0], &hello, sizeof hello, 0), sizeof hello);
    CHECK_INT(hello.magic, AGENT_HELLO);
    CHECK_INT(hello.version, AGENT_VERSION);
    CHECK_INT(hello.flags & AGENT_IS_FIRST, 0);
    CHECK_INT(hello.pid, agent->pid);
}

static inline void start_agent(struct agent_process *agent)
{
    start_agent_within(agent, 0, NULL);
}

/* Ends the agent by closing the agent's socket. Returns the exit status of the agent. */
static inline int stop_agent(struct agent_process *agent)
{
    close(agent->control);
    return wait_for(agent->pid);
}

static inline void send_message(int control, const void *bytes, size_t size, const int *fds,
                                size_t count)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(8 * sizeof(int))];
    } control_part;
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control_part, 0, sizeof control_part);
    if (count) {
        control_part.header.cmsg_level = SOL_SOCKET;
        control_part.header.cmsg_type = SCM_RIGHTS;
        control_part.header.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control_part.header), fds, count * sizeof(int));
        head.msg_control = &control_part;
        head.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    CHECK_INT(sendmsg(control, &head, MSG_NOSIGNAL), (long long)size);
}

static inline char *add_string(char *to, const char *word)
{
    return stpcpy(to, word) + 1;
}

static inline uint32_t add_strings(char **to, const char *const *strings)
{
    uint32_t count = 0;
    for (; strings && *strings; strings++, count++)
        *to = add_string(*to, *strings);
    return count;
}

/* Encodes the message that requests a command. The message ends with strings, such as the command's
 * arguments. Returns the offset of the strings. */
static inline size_t encode(const struct request *request, char *bytes)
{
    static const char *const path[] = {"PATH=/usr/bin:/bin", NULL};
    struct agent_header header = {
        .magic = AGENT_COMMAND,
        .version = AGENT_VERSION,
        .flags = (uint16_t)request->flags,
        .groups = AGENT_UNCHANGED,
        .limits = request->limit_count,
        .umask = request->umask ? request->umask : AGENT_UNCHANGED,
        .rows = request->rows,
        .columns = request->columns,
    };
    size_t fixed = sizeof header + request->limit_count * sizeof *request->limits;
    char *at = bytes + fixed;
    at = add_string(at, request->cwd ? request->cwd : "/");
    if (request->program) {
        header.flags |= AGENT_PROGRAM;
        at = add_string(at, request->program);
    }
    header.args = add_strings(&at, request->argv);
    header.env = add_strings(&at, request->envp ? request->envp : path);
    header.size = (uint32_t)(at - bytes - (ptrdiff_t)fixed);
    memcpy(bytes, &header, sizeof header);
    if (request->limit_count)
        memcpy(bytes + sizeof header, request->limits,
               request->limit_count * sizeof *request->limits);
    return fixed;
}

/* Starts a command. Returns the host's end of the command's socket. */
static inline int send_request(const struct agent_process *agent, const struct request *request)
{
    static char bytes[4 << 20];
    int own[2], null = open("/dev/null", O_RDWR | O_CLOEXEC), fds[5];
    socket_pair(own);
    size_t fixed = encode(request, bytes);
    struct agent_header header;
    memcpy(&header, bytes, sizeof header);
    for (int i = 0; i < 3; i++)
        fds[i] = request->stdio[i] ? request->stdio[i] : null;
    fds[AGENT_SOCKET] = own[1];
    bool apart = request->flags & AGENT_STRINGS_APART;
    int file = -1;
    if (apart) {
        file = fds[AGENT_STRINGS] =
            request->strings ? request->strings : memfd_create("strings", MFD_CLOEXEC);
        if (!request->strings) {
            CHECK_INT(write(file, bytes + fixed, header.size), header.size);
            lseek(file, 0, SEEK_SET);
        }
    }
    send_message(agent->control, bytes, fixed + (apart ? 0 : header.size), fds, apart ? 5 : 4);
    close(own[1]);
    close(null);
    if (apart && !request->strings)
        close(file);
    return own[0];
}

struct answer {
    struct agent_note note;
    union {
        uint32_t step;
        struct {
            uint64_t user_us, system_us, rss_kib;
        } used;
    } more;
    long size;
};

static inline struct answer receive_answer(int socket)
{
    struct answer answer;
    char bytes[64];
    memset(&answer, 0, sizeof answer);
    answer.size = recv(socket, bytes, sizeof bytes, 0);
    CHECK(answer.size >= 0 && answer.size <= (long)sizeof(struct agent_end));
    if (answer.size)
        memcpy(&answer.note, bytes, sizeof answer.note);
    if (answer.size > (long)sizeof answer.note)
        memcpy(&answer.more, bytes + sizeof answer.note, (size_t)answer.size - sizeof answer.note);
    return answer;
}

static inline pid_t receive_start(int socket)
{
    struct answer answer = receive_answer(socket);
    CHECK_INT(answer.size, sizeof(struct agent_note));
    CHECK_INT(answer.note.kind, AGENT_STARTED);
    return answer.note.value;
}

/* Receives the wait status of a command (waitpid(2)) from its socket. */
static inline int receive_end(int socket)
{
    struct answer answer = receive_answer(socket);
    CHECK_INT(answer.size, sizeof(struct agent_end));
    CHECK_INT(answer.note.kind, AGENT_ENDED);
    return answer.note.value;
}

static inline void receive_failure(int socket, int step, int errnum)
{
    struct answer answer = receive_answer(socket);
    CHECK_INT(answer.size, sizeof(struct agent_failure));
    CHECK_INT(answer.note.kind, AGENT_FAILED);
    CHECK_INT(answer.more.step, step);
    CHECK_INT(answer.note.value, errnum);
}

static inline void send_note(int socket, int kind, int to, int value)
{
    struct agent_note note = {.kind = (uint16_t)kind, .to = (uint16_t)to, .value = value};
    CHECK_INT(send(socket, &note, sizeof note, MSG_NOSIGNAL), sizeof note);
}

static inline size_t read_all(int fd, char *text, size_t size)
{
    size_t length = 0;
    ssize_t part;
    while (length < size - 1 && (part = read(fd, text + length, size - 1 - length)) > 0)
        length += (size_t)part;
    text[length] = '\0';
    close(fd);
    return length;
}

/* Runs a shell script. Returns its wait status, and stores its output in `text`. */
static inline int run_script(const struct agent_process *agent, const char *script,
                             struct request request, char *text, size_t size)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    int out[2];
    CHECK_INT(pipe2(out, O_CLOEXEC), 0);
    request.argv = argv;
    request.stdio[1] = out[1];
    int socket = send_request(agent, &request);
    close(out[1]);
    receive_start(socket);
    read_all(out[0], text, size);
    int status = receive_end(socket);
    close(socket);
    return status;
}

/* Starts a shell script, and waits for its first line of output. Returns the socket of the command.
 * Stores in *alive the read end of a pipe. End of file on this pipe means that all processes of the
 * script have exited. */
static inline int start_script(const struct agent_process *agent, const char *script, int *alive,
                               pid_t *pid)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    int out[2];
    char line[64];
    CHECK_INT(pipe2(out, O_CLOEXEC), 0);
    struct request request = {.argv = argv, .stdio = {0, out[1], 0}};
    int socket = send_request(agent, &request);
    close(out[1]);
    *pid = receive_start(socket);
    CHECK(read(out[0], line, sizeof line) > 0);
    *alive = out[0];
    return socket;
}

static inline void check_all_end(int alive)
{
    struct pollfd end = {.fd = alive, .events = POLLIN};
    char rest[256];
    do
        CHECK_INT(poll(&end, 1, 30000), 1);
    while (read(alive, rest, sizeof rest) > 0);
    close(alive);
}

#endif
