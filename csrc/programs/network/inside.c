/* The part of usernsctl-network that runs in the network namespace of the sandbox. */
#include "base/base.h"
#include "programs/network/network.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <arpa/inet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define BACKLOG 128

/* gVisor has no capabilities for this namespace, and programs inside may listen on all ports. */
#define LOW_PORTS "/proc/sys/net/ipv4/ip_unprivileged_port_start"
#define ALL_PORTS "0"

/* The kernel gives these ports to no socket that is not bound (ip-sysctl.rst). Otherwise a client
 * that connects often before the program inside listens could get a socket whose own port is the
 * port inside: such a socket is connected to itself, and the program could not bind the port. */
#define RESERVED_PORTS "/proc/sys/net/ipv4/ip_local_reserved_ports"

/* pasta (of 2025) drops what its socket has no room for, and the sender then pauses for seconds. A
 * smaller buffer of the sender keeps a connection to a near host at its full rate
 * (bench/network.py). Half of this size slows down a connection to a host that is 20 ms away. */
#define SEND_BUFFER "/proc/sys/net/ipv4/tcp_wmem"
#define SEND_BUFFER_SIZES "4096 16384 524288"

static int bring_up_loopback(struct un_error *err)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    un_auto_close int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any < 0 || ioctl(any, SIOCSIFFLAGS, &request))
        return un_fail_errno(err, UN_STEP_NETWORK, "the loopback device");
    return 0;
}

/* Changes a setting of this network namespace. Fails where /proc/sys is read-only, as in
 * containers; the network works without, too. */
static void set_if_writable(const char *path, const char *value)
{
    un_auto_close int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file >= 0)
        (void)!write(file, value, strlen(value));
}

/* Reserves the ports inside of the published ports, where that is possible. */
static void reserve_ports(const struct network *network)
{
    const struct ports *all[] = {&network->tcp, &network->udp};
    char text[2 * PORTS_MAX * sizeof "65535"];
    size_t length = 0;
    for (int i = 0; i < 2; i++)
        for (size_t j = 0; j < all[i]->count; j++)
            length += (size_t)snprintf(text + length, sizeof text - length, "%s%u",
                                       length ? "," : "", all[i]->port[j].inside);
    if (length)
        set_if_writable(RESERVED_PORTS, text);
}

static int listen_inside(uint16_t port, struct un_error *err)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int found = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (found >= 0 && !bind(found, (const struct sockaddr *)&address, sizeof address) &&
        !listen(found, BACKLOG))
        return found;
    un_fail_errno(err, UN_STEP_NETWORK, "a port inside for a program outside");
    un_close_quietly(found);
    return -1;
}

static int send_listener(const struct listener *listener, int socket, struct un_error *err)
{
    un_auto_close int found = listen_inside(listener->port, err);
    if (found < 0)
        return -1;
    return un_send(socket, "+", 1, &found, 1) ? 0 : un_fail_errno(err, UN_STEP_NETWORK, "sendmsg");
}

/* Makes the device of pasta. It ends with the namespace, in the background: the end of pasta, and
 * so that of the sandbox, would wait while the kernel removes a device that pasta itself had made.
 * A device without an owner would be open to processes without capabilities, too. */
static int make_device(struct un_error *err)
{
    struct ifreq request = {.ifr_name = DEVICE, .ifr_flags = IFF_TAP | IFF_NO_PI};
    un_auto_close int tun = open(TUN, O_RDWR | O_CLOEXEC);
    if (tun >= 0 && !ioctl(tun, TUNSETIFF, &request) && !ioctl(tun, TUNSETOWNER, geteuid()) &&
        !ioctl(tun, TUNSETPERSIST, 1))
        return 0;
    un_fail_errno(err, UN_STEP_NETWORK, TUN);
    err->cause = "tun-missing";
    return -1;
}

/* Makes the network namespace, and sends descriptors of the namespace and its listening sockets. */
static int make(const struct network *network, int socket, struct un_error *err)
{
    /* The kernel allows this call to root of a user namespace, so EPERM comes from a filter. */
    if (unshare(CLONE_NEWNET))
        return un_fail(err, UN_STEP_UNSHARE, errno,
                       errno == EPERM ? "seccomp-denies-network" : NULL,
                       "the network of the sandbox");
    if (bring_up_loopback(err))
        return -1;
    set_if_writable(LOW_PORTS, ALL_PORTS);
    reserve_ports(network);
    if (network->pasta) {
        set_if_writable(SEND_BUFFER, SEND_BUFFER_SIZES);
        if (make_device(err))
            return -1;
    }
    un_auto_close int namespace = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || !un_send(socket, "+", 1, &namespace, 1))
        return un_fail_errno(err, UN_STEP_NETWORK, "/proc/thread-self/ns/net");
    for (size_t i = 0; i < network->listener_count; i++)
        if (send_listener(&network->listener[i], socket, err))
            return -1;
    return 0;
}

_Noreturn void run_inside(const struct network *network, const struct prefixes *denied, int socket)
{
    char go;
    struct un_error err;
    /* nft runs while pasta starts. */
    if (make(network, socket, &err) || (network->pasta && filter_output(network, denied, &err))) {
        error_send(socket, &err);
        _exit(1);
    }
    if (read(socket, &go, 1) != 1)
        _exit(1);
    if (network->pasta && (routes_deny(denied, &err) || route_name_server(DEVICE, &err))) {
        error_send(socket, &err);
        _exit(1);
    }
    if (network->tcp.count)
        forward_ports(network, socket);
    (void)!write(socket, "+", 1);
    _exit(0);
}
