/* Creating the sockets of published ports in the host's network namespace. */
#include "base/base.h"
#include "programs/network/network.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#define BACKLOG 128

static socklen_t read_address(const char *text, uint16_t port, struct sockaddr_storage *address)
{
    struct sockaddr_in *four = (void *)address;
    struct sockaddr_in6 *six = (void *)address;
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return sizeof *four;
    }
    if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
        return 0;
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    return sizeof *six;
}

/* Returns the cause id for an errno of bind(2) or listen(2), or NULL if the errno has no known
 * cause. */
static const char *cause_of_port(int errnum)
{
    switch (errnum) {
    case EADDRINUSE:
        return "port-taken";
    case EACCES:
        return "port-privileged";
    case EADDRNOTAVAIL:
        return "port-address-missing";
    default:
        return NULL;
    }
}

static int fail_port(const struct port *port, const char *kind, struct un_error *err)
{
    int errnum = errno;
    return un_fail(err, UN_STEP_NETWORK, errnum, cause_of_port(errnum), "%sport %u of %s", kind,
                   port->outside, port->address);
}

/* Creates a socket bound to a port of the host, and stores it in port->socket. A TCP socket also
 * listens. Returns 0, or -1 with the error in `err`. */
static int bind_port(struct port *port, int type, struct un_error *err)
{
    int on = 1;
    bool is_tcp = type == SOCK_STREAM;
    struct sockaddr_storage address;
    socklen_t size = read_address(port->address, port->outside, &address);
    int fd = size ? socket(address.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
                  : (errno = EINVAL, -1);
    /* Set IPV6_V6ONLY, because a socket bound to [::] would otherwise also accept connections to
     * IPv4 addresses. Set SO_REUSEADDR only for TCP: for UDP, it would let other programs bind the
     * same port. */
    bool is_six = address.ss_family == AF_INET6;
    if (fd >= 0 && (!is_six || !setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on)) &&
        (!is_tcp || !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)) &&
        !bind(fd, (const struct sockaddr *)&address, size) && (!is_tcp || !listen(fd, BACKLOG))) {
        port->socket = fd;
        return 0;
    }
    fail_port(port, is_tcp ? "" : "UDP ", err);
    un_close_quietly(fd);
    return -1;
}

static int bind_all(struct ports *ports, int type, struct un_error *err)
{
    for (size_t i = 0; i < ports->count; i++)
        if (ports->port[i].address && bind_port(&ports->port[i], type, err))
            return -1;
    return 0;
}

int bind_ports(struct network *network, struct un_error *err)
{
    return bind_all(&network->tcp, SOCK_STREAM, err) || bind_all(&network->udp, SOCK_DGRAM, err)
               ? -1
               : 0;
}

static void close_all(const struct ports *ports)
{
    for (size_t i = 0; i < ports->count; i++)
        close(ports->port[i].socket);
}

void close_ports(const struct network *network)
{
    close_all(&network->tcp);
    close_all(&network->udp);
}
