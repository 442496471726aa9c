/*
 * usernsctl-network CREATOR REPORT OPTION...
 *
 * Creates a network namespace for a sandbox, and supervises the processes that connect it to other
 * networks. The program is started in the host's network namespace, as PID 1 of a PID namespace
 * (programs/shared/network.c).
 *
 * CREATOR is a pidfd. When the process to which it refers exits, this program exits, and the kernel
 * kills all other processes of the network.
 *
 * REPORT is a socket. When the network is ready, the program sends a descriptor of the network
 * namespace over REPORT, and then only waits. After a failure, it sends the fields of the error
 * (shared.h, error_send()).
 *
 * --pasta=PATH connects the namespace to the host's network by the program pasta. The addresses of
 * the host, its gateways and link-local addresses stay unreachable. Without the option, the
 * namespace has only a loopback device.
 *
 * --nft=PATH is the path of nft(8), which installs a packet filter that drops packets to the
 * addresses of the host, its gateways and link-local addresses. --pasta requires this option.
 *
 * --allow=CONDITION is the condition of a rule of nft(8). If the option is given at least once, the
 * filter also drops all packets that leave the namespace without meeting any of the conditions.
 *
 * --publish=ADDRESS/OUTSIDE:INSIDE forwards TCP connections from the port OUTSIDE of the host's
 * address ADDRESS to the port INSIDE of 127.0.0.1 in the namespace. --accept=INSIDE:FD does the
 * same for connections to the inherited listening socket FD. With "/udp" at the end, either option
 * forwards UDP datagrams.
 *
 * --listen=PORT:FD creates a TCP socket that listens on 127.0.0.1:PORT in the namespace, and sends
 * it over the inherited Unix socket FD (SCM_RIGHTS, with the byte "+"), so that a program outside
 * of the namespace can accept connections on it. The program also sends the read end of a pipe
 * whose write end no other process has. End of file on this pipe means that the network has ended.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define PASTA "--pasta="
#define NFT "--nft="
#define ALLOW "--allow="
#define PUBLISH "--publish="
#define UDP "/udp"

enum { CREATOR, REPORT, FDS };

/* Parses PORT:FD at the beginning of `word`, where FD is the number of an inherited descriptor.
 * Returns a pointer to the byte after FD, or NULL if `word` is malformed. */
static const char *read_port_fd(const char *word, uint16_t *port, int *fd)
{
    uint64_t numbers[2];
    const char *end = un_number_read(word, UINT16_MAX, &numbers[0]);
    if (!end || *end != ':' || !numbers[0])
        return NULL;
    end = un_number_read(end + 1, INT_MAX, &numbers[1]);
    if (!end || numbers[1] < 3)
        return NULL;
    *port = (uint16_t)numbers[0];
    *fd = (int)numbers[1];
    return fcntl(*fd, F_SETFD, FD_CLOEXEC) ? NULL : end;
}

static bool read_listener(const char *word, struct network *network)
{
    if (network->listener_count == LISTENERS_MAX)
        return false;
    struct listener *listener = &network->listener[network->listener_count++];
    const char *end = read_port_fd(word, &listener->port, &listener->socket);
    return end && !*end;
}

/* Adds a port to network->tcp or network->udp. `end` is the end of the option: "" for TCP, "/udp"
 * for UDP. Returns false if `end` is neither, or if the array is full. */
static bool add_port(const struct port *port, const char *end, struct network *network)
{
    struct ports *ports = !*end ? &network->tcp : strcmp(end, UDP) == 0 ? &network->udp : NULL;
    if (!ports || ports->count == PORTS_MAX)
        return false;
    ports->port[ports->count++] = *port;
    return true;
}

static bool read_accept(const char *word, struct network *network)
{
    struct port port = {.address = NULL};
    const char *end = read_port_fd(word, &port.inside, &port.socket);
    return end && add_port(&port, end, network);
}

/* Parses the value of --publish, and adds the port to `network`. Replaces the first slash in `word`
 * with NUL. Returns false if the value is malformed. */
static bool read_port(char *word, struct network *network)
{
    uint64_t outside, inside;
    char *slash = strchr(word, '/');
    const char *end = slash ? un_number_read(slash + 1, UINT16_MAX, &outside) : NULL;
    if (!end || *end != ':' || !outside)
        return false;
    end = un_number_read(end + 1, UINT16_MAX, &inside);
    if (!end || !inside)
        return false;
    *slash = '\0';
    const struct port port = {
        .address = word, .outside = (uint16_t)outside, .inside = (uint16_t)inside, .socket = -1};
    return add_port(&port, end, network);
}

static bool read_option(char *word, struct network *network)
{
    if (un_begins(word, PASTA))
        network->pasta = word + strlen(PASTA);
    else if (un_begins(word, NFT))
        network->nft = word + strlen(NFT);
    else if (un_begins(word, ALLOW) && network->allow_count < RULES_MAX)
        network->allow[network->allow_count++] = word + strlen(ALLOW);
    else if (un_begins(word, PUBLISH))
        return read_port(word + strlen(PUBLISH), network);
    else if (un_begins(word, UN_ACCEPT))
        return read_accept(word + strlen(UN_ACCEPT), network);
    else if (!un_begins(word, UN_LISTEN) || !read_listener(word + strlen(UN_LISTEN), network))
        return false;
    return true;
}

/* Receives a descriptor from the child in the network namespace. Returns 0, or -1 with the error in
 * `err`, which may come from the child. */
static int receive_one(int socket, int *fd, struct un_error *err)
{
    char text[ERROR_FIELDS_MAX];
    size_t count;
    ssize_t length = un_receive(socket, text, sizeof text, fd, 1, &count);
    if (length > 0 && count)
        return 0;
    if (length > 0 && error_parse(text, (size_t)length, err))
        return -1;
    return un_fail(err, UN_STEP_NETWORK, 0, NULL,
                   "the process in the network namespace ended without a report");
}

/* Sends a listening socket, and the read end of a pipe, to the program that accepts connections on
 * the socket. */
static int pass_listener(struct listener *listener, int listening, struct un_error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return un_fail_errno(err, UN_STEP_NETWORK, "can't create a pipe for --listen");
    const int fds[] = {listening, ends[0]};
    bool is_sent = un_send(listener->socket, "+", 1, fds, 2);
    un_close_quietly(ends[0]);
    un_close_quietly(listener->socket);
    /* Keep the write end open until this process exits. Forked children close it, and exit when
     * this process exits. */
    listener->socket = ends[1];
    return is_sent ? 0 : un_fail_errno(err, UN_STEP_NETWORK, "can't send the socket of --listen");
}

static int pass_listeners(struct network *network, int socket, struct un_error *err)
{
    for (size_t i = 0; i < network->listener_count; i++) {
        int fd;
        if (receive_one(socket, &fd, err))
            return -1;
        int failed = pass_listener(&network->listener[i], fd, err);
        close(fd);
        if (failed)
            return -1;
    }
    return 0;
}

/* Reaps all children that have exited. Returns whether there were any. */
static bool reap_children(void)
{
    bool has_any = false;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        has_any = true;
    return has_any;
}

/* Tells the child in the network namespace to add the routes and to start forwarding ports, and
 * reads the result. Returns 0, or -1 with the error in `err`. */
static int finish_inside(int socket, struct un_error *err)
{
    char text[ERROR_FIELDS_MAX];
    /* Reap the processes that only started pasta: wait_for_end() would take their exit for the end
     * of the network. If pasta itself has exited and is reaped here, the child reports that no
     * process serves pasta's device. */
    reap_children();
    /* Ignore a failure, which means that the child has exited. read(2) then returns the error that
     * the child has sent. */
    (void)!send(socket, "+", 1, MSG_NOSIGNAL);
    ssize_t length = read(socket, text, sizeof text);
    /* If the child has exited without reading "+", the first read(2) fails with ECONNRESET, and the
     * second returns the error that the child has sent. */
    if (length < 0 && errno == ECONNRESET)
        length = read(socket, text, sizeof text);
    if (length == 1)
        return 0;
    if (length > 0 && error_parse(text, (size_t)length, err))
        return -1;
    return un_fail(err, UN_STEP_NETWORK, 0, NULL,
                   "the process in the network namespace ended without a report");
}

/* Creates the network, and stores a descriptor of the network namespace in *namespace. Returns 0,
 * or -1 with the error in `err`. */
static int make_network(struct network *network, int *namespace, struct un_error *err)
{
    int ends[2], status;
    un_auto_free struct prefixes *denied = calloc(1, sizeof *denied);
    if (!denied)
        return un_fail_errno(err, UN_STEP_NETWORK, "can't store the routes of this machine");
    if (network->pasta && routes_of_machine(denied, err))
        return -1;
    if (bind_ports(network, err))
        return -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return un_fail_errno(err, UN_STEP_NETWORK, "socketpair");
    pid_t child = un_fork();
    if (child < 0)
        return un_fail_errno(err, UN_STEP_NETWORK, "fork");
    close(ends[child ? 1 : 0]);
    if (!child)
        run_inside(network, denied, ends[1]);
    int failed = receive_one(ends[0], namespace, err) || pass_listeners(network, ends[0], err) ||
                 (network->pasta && start_pasta(network->pasta, *namespace, err)) ||
                 finish_inside(ends[0], err) ||
                 (network->udp.count && start_udp(network, *namespace, err));
    close(ends[0]);
    close_ports(network);
    /* Without published TCP ports, the child exits now. Reap the child here, because wait_for_end()
     * would take its exit for the end of the network. After a failure, do not wait, because the
     * kernel kills the child and nft when this process exits. */
    while (!failed && !network->tcp.count && waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    return failed ? -1 : 0;
}

/* Waits until the process of the pidfd `creator`, or any child of this process, exits. */
static void wait_for_end(int creator, int signals)
{
    struct pollfd fds[] = {{.fd = creator, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    struct signalfd_siginfo info;
    while (!fds[0].revents && !reap_children()) {
        while (poll(fds, 2, -1) < 0 && errno == EINTR)
            continue;
        while (read(signals, &info, sizeof info) > 0)
            continue;
    }
}

/* Closes all descriptors that this program does not need. Replaces standard input, output and error
 * by /dev/null: they may be pipes to the reader of the sandbox's output, who waits until all
 * writers have closed them. Returns 0, or -1 with the error in `err`. */
static int keep_only(const struct network *network, const int fds[FDS], struct un_error *err)
{
    const struct ports *ports[] = {&network->tcp, &network->udp};
    int keep[FDS + LISTENERS_MAX + 2 * PORTS_MAX];
    size_t count = FDS;
    memcpy(keep, fds, FDS * sizeof *keep);
    for (size_t i = 0; i < network->listener_count; i++)
        keep[count++] = network->listener[i].socket;
    for (int i = 0; i < 2; i++)
        for (size_t j = 0; j < ports[i]->count; j++)
            if (ports[i]->port[j].socket >= 0)
                keep[count++] = ports[i]->port[j].socket;
    count = un_sort_fds(keep, count);
    if (un_close_fds(keep, count, err))
        return -1;
    for (size_t i = 0; i < count; i++)
        if (fcntl(keep[i], F_SETFD, FD_CLOEXEC))
            return un_fail_errno(err, UN_STEP_NETWORK,
                                 "can't set close-on-exec on a descriptor of usernsctl-network");
    un_auto_close int nothing = un_open_null(O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        /* gcc's analyzer reports a leak, because it assumes that dup2(2) creates a new descriptor.
         * NOLINTNEXTLINE(analyzer-fd-leak) */
        if (nothing < 0 || dup2(nothing, fd) < 0)
            return un_fail_errno(err, UN_STEP_NETWORK, "/dev/null");
    return 0;
}

/* Raises the soft limit of open descriptors to the hard limit. The processes that forward published
 * ports have one or two descriptors for each client, and poll(2) fails with EINVAL if it gets more
 * entries than the soft limit allows. Ignores a failure: fewer clients can then connect. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
    struct network network = {.pasta = NULL};
    struct un_error err;
    struct sigaction sigchld;
    int fds[FDS], namespace = -1;
    sigset_t children;
    bool is_valid = argc > 2 && !sandbox_take_fds(argv + 1, fds, FDS);
    for (int i = 3; is_valid && i < argc; i++)
        is_valid = read_option(argv[i], &network);
    if (!is_valid || !network.pasta != !network.nft) {
        fputs("usage: usernsctl-network CREATOR REPORT OPTION...\n", stderr);
        return SANDBOX_FAILED;
    }
    /* Reset the action of SIGCHLD, because with an inherited SIG_IGN, this process could not wait
     * for its children. */
    un_default_sigchld(&sigchld);
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, NULL);
    raise_file_limit();
    if (un_die_with_parent(SIGKILL, fds[CREATOR], &err) || keep_only(&network, fds, &err) ||
        make_network(&network, &namespace, &err)) {
        error_send(fds[REPORT], &err);
        return SANDBOX_FAILED;
    }
    int signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0 || !drop_privileges() || !un_send(fds[REPORT], "+", 1, &namespace, 1))
        return SANDBOX_FAILED;
    close(fds[REPORT]);
    close(namespace);
    wait_for_end(fds[CREATOR], signals);
    return SANDBOX_FAILED;
}
