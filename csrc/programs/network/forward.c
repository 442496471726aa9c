/*
 * Forwarding connections from published TCP ports of the host to ports in the sandbox.
 *
 * The listening sockets belong to the host's network namespace, and the process that accepts
 * connections on them runs in the sandbox's network namespace. So the process need not switch
 * namespaces, and can connect only to the sandbox, whatever data it receives. The process allocates
 * all memory at its start, because the restrictions of confine.c prevent later allocations.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "programs/shared/shared.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#define CONNECTIONS_MAX 256
#define BUFFER_BYTES (1 << 15)
#define PAUSE_MS 100

/* The kernel sends keepalive probes to a client that was silent for IDLE_S seconds, one every
 * PROBE_S seconds, and closes the connection after PROBES probes without an answer. */
#define IDLE_S 60
#define PROBE_S 15
#define PROBES 4

/* The buffer for one direction of a connection. */
struct half {
    /* part of forwarder->bytes; allocated even while this element of forwarder->connection is not
     * in use */
    char *bytes;
    size_t at, length; /* bytes[at] to bytes[at + length - 1] are not written yet */
    bool has_ended;    /* whether the source has reached end of file */
    bool is_shut;      /* whether shutdown(2) was called for the destination */
};

struct connection {
    int fd[2];           /* the client's socket, and the socket to the program in the sandbox */
    bool is_connecting;  /* whether connect(2) to the program in the sandbox is in progress */
    struct half half[2]; /* buffer for the data read from fd[i] */
    struct pollfd *polled[2];
};

struct forwarder {
    const struct ports *ports;
    const struct sockaddr_in *inside; /* address of each port in the sandbox (confine.c) */
    struct connection connection[CONNECTIONS_MAX];
    size_t count;      /* number of open connections, which come first in `connection` */
    bool is_exhausted; /* whether accept4(2) has failed for lack of memory or descriptors */
    struct pollfd polled[PORTS_MAX + 2 * CONNECTIONS_MAX];
    char bytes[CONNECTIONS_MAX][2][BUFFER_BYTES];
};

static void close_connection(struct connection *connection)
{
    for (int i = 0; i < 2; i++)
        un_close_quietly(connection->fd[i]);
}

/* Starts to connect to the program in the sandbox. On failure, closes `client`, and returns
 * false. */
static bool open_connection(int client, const struct sockaddr_in *inside,
                            struct connection *connection)
{
    int there = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    *connection = (struct connection){
        .fd = {client, there},
        .is_connecting = true,
        .half = {{.bytes = connection->half[0].bytes}, {.bytes = connection->half[1].bytes}}};
    bool is_begun =
        there >= 0 &&
        (!connect(there, (const struct sockaddr *)inside, sizeof *inside) || errno == EINPROGRESS);
    if (!is_begun)
        close_connection(connection);
    return is_begun;
}

static void accept_client(struct forwarder *forwarder, size_t port)
{
    int listener = forwarder->ports->port[port].socket;
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client >= 0 &&
        open_connection(client, &forwarder->inside[port], &forwarder->connection[forwarder->count]))
        forwarder->count++;
    /* If accept4(2) fails for lack of resources, the listening socket stays readable, so the next
     * poll(2) would return at once. Therefore make wait_for_events() pause. */
    forwarder->is_exhausted =
        client < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS);
}

static bool is_temporary(ssize_t got)
{
    return got < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Reads data from the socket `from` into an empty buffer, without blocking. Returns false after an
 * error. */
static bool fill_half(struct half *half, int from)
{
    if (half->length || half->has_ended)
        return true;
    ssize_t got = read(from, half->bytes, BUFFER_BYTES);
    if (got < 0 && !is_temporary(got))
        return false;
    half->at = 0;
    half->length = got > 0 ? (size_t)got : 0;
    half->has_ended = got == 0;
    return true;
}

/* Writes the data of the buffer to the socket `to`, without blocking, and forwards end of file.
 * Returns false after an error. */
static bool drain_half(struct half *half, int to)
{
    if (half->length) {
        ssize_t sent = send(to, half->bytes + half->at, half->length, MSG_NOSIGNAL);
        if (sent < 0 && !is_temporary(sent))
            return false;
        half->at += sent > 0 ? (size_t)sent : 0;
        half->length -= sent > 0 ? (size_t)sent : 0;
    }
    if (half->has_ended && !half->length && !half->is_shut) {
        shutdown(to, SHUT_WR);
        half->is_shut = true;
    }
    return true;
}

/* Drops the data in the buffer, and ends this direction of the connection. */
static void end_half(struct half *half)
{
    half->length = 0;
    half->has_ended = half->is_shut = true;
}

/* Returns whether the socket fd[end] is half-closed, that is, has reached end of file, but data may
 * still be written to it. Such a socket is polled without requested events, so that poll(2) reports
 * a reset by the peer. */
static bool is_half_closed(const struct connection *connection, int end)
{
    return connection->half[end].has_ended && !connection->half[1 - end].is_shut;
}

/* Returns whether the socket fd[end] is half-closed, and its peer has reset the connection. */
static bool was_reset(const struct connection *connection, int end)
{
    return is_half_closed(connection, end) &&
           connection->polled[end]->revents & (POLLERR | POLLHUP);
}

/* Handles the events of a connection. Returns false if the connection has ended. */
static bool serve(struct connection *connection)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (connection->is_connecting) {
        if (!connection->polled[1]->revents)
            return true;
        if (getsockopt(connection->fd[1], SOL_SOCKET, SO_ERROR, &error, &size) || error)
            return false;
        connection->is_connecting = false;
    }
    struct half *request = &connection->half[0], *answer = &connection->half[1];
    if (was_reset(connection, 0) || !fill_half(request, connection->fd[0]) ||
        !fill_half(answer, connection->fd[1]) || !drain_half(answer, connection->fd[0]))
        return false;
    /* If the program has closed its socket, end only the direction to the program, because the
     * program's last answer may still be in a buffer. For example, a server may reject a large
     * upload before the end of the upload. */
    if (was_reset(connection, 1) || !drain_half(request, connection->fd[1]))
        end_half(request);
    return !request->is_shut || !answer->is_shut;
}

/* Returns the events that poll(2) must wait for on the socket fd[end]. */
static short events_of(const struct connection *connection, int end)
{
    const struct half *read = &connection->half[end], *written = &connection->half[1 - end];
    if (connection->is_connecting)
        return end ? POLLOUT : 0;
    return (short)((!read->length && !read->has_ended ? POLLIN : 0) |
                   (written->length ? POLLOUT : 0));
}

/* Waits for events of the listening sockets and of the connections. The listening sockets come
 * first in forwarder->polled. */
static void wait_for_events(struct forwarder *forwarder)
{
    struct pollfd *fds = forwarder->polled;
    size_t ports = forwarder->ports->count, count = ports;
    for (size_t i = 0; i < ports; i++) {
        int listener = forwarder->ports->port[i].socket;
        bool has_room = forwarder->count < CONNECTIONS_MAX && !forwarder->is_exhausted;
        fds[i] = (struct pollfd){.fd = has_room ? listener : -1, .events = POLLIN};
    }
    for (size_t i = 0; i < forwarder->count; i++)
        for (int end = 0; end < 2; end++) {
            struct connection *connection = &forwarder->connection[i];
            short events = events_of(connection, end);
            /* Poll the socket if it has requested events, or if it is half-closed. Skip it
             * otherwise, because poll(2) may report POLLHUP without a request, again and again. */
            bool is_wanted = events || is_half_closed(connection, end);
            fds[count] =
                (struct pollfd){.fd = is_wanted ? connection->fd[end] : -1, .events = events};
            connection->polled[end] = &fds[count++];
        }
    while (poll(fds, count, forwarder->is_exhausted ? PAUSE_MS : -1) < 0 && errno == EINTR)
        continue;
    forwarder->is_exhausted = false;
}

/* Closes a connection, and moves the last open connection into its array element. */
static void remove_connection(struct forwarder *forwarder, struct connection *connection)
{
    struct connection ended = *connection, *last = &forwarder->connection[--forwarder->count];
    close_connection(connection);
    *connection = *last;
    *last = ended;
}

/* Returns a forwarder without connections, or NULL if memory allocation fails. Its buffers take no
 * memory until they are used. */
static struct forwarder *make_forwarder(const struct ports *ports)
{
    struct forwarder *forwarder = calloc(1, sizeof *forwarder);
    for (size_t i = 0; forwarder && i < CONNECTIONS_MAX; i++)
        for (int end = 0; end < 2; end++)
            forwarder->connection[i].half[end].bytes = forwarder->bytes[i][end];
    if (forwarder)
        forwarder->ports = ports;
    return forwarder;
}

/* Sets the socket options for keepalive probes on the listening sockets, from which accepted
 * sockets inherit them. Without probes, clients that vanish, for example after a power failure,
 * would use up all connections. The program in the sandbox can't notice that a client has
 * vanished, because the program's connection ends at this process. Returns false with errno set on
 * failure. */
static bool probe_clients(const struct ports *ports)
{
    static const struct {
        int level, option, value;
    } wanted[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
                  {IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S},
                  {IPPROTO_TCP, TCP_KEEPINTVL, PROBE_S},
                  {IPPROTO_TCP, TCP_KEEPCNT, PROBES}};
    for (size_t i = 0; i < ports->count; i++)
        for (size_t j = 0; j < sizeof wanted / sizeof *wanted; j++)
            if (setsockopt(ports->port[i].socket, wanted[j].level, wanted[j].option,
                           &wanted[j].value, sizeof wanted[j].value))
                return false;
    return true;
}

_Noreturn void forward_ports(const struct network *network, int socket)
{
    struct un_error err;
    struct forwarder *forwarder =
        probe_clients(&network->tcp) ? make_forwarder(&network->tcp) : NULL;
    if (!forwarder)
        un_fail_errno(&err, UN_STEP_NETWORK,
                      "can't create the sockets or buffers for published ports");
    else
        forwarder->inside = confine_forwarder(network, socket, &err);
    /* NOLINTNEXTLINE(analyzer-malloc-leak): `forwarder` is needed until the process ends. */
    if (!forwarder || !forwarder->inside) {
        error_send(socket, &err);
        _exit(1);
    }
    /* NOLINTNEXTLINE(analyzer-malloc-leak): `forwarder` is needed until the process ends. */
    if (send(socket, "+", 1, MSG_NOSIGNAL) != 1)
        _exit(1);
    close(socket);
    for (;;) {
        wait_for_events(forwarder);
        size_t before = forwarder->count;
        for (size_t i = before; i-- > 0;)
            if (!serve(&forwarder->connection[i]))
                remove_connection(forwarder, &forwarder->connection[i]);
        for (size_t i = 0; i < network->tcp.count; i++)
            if (forwarder->polled[i].revents && forwarder->count < CONNECTIONS_MAX &&
                !forwarder->is_exhausted)
                accept_client(forwarder, i);
    }
}
