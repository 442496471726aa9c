/* Setting up the sandbox's network namespace, in the child of usernsctl-network that creates the
 * namespace. */
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

/* Setting with the lowest port that a process without capabilities may bind. gVisor has no
 * capabilities in this network namespace, but programs in the sandbox may listen on any port. */
#define LOW_PORTS "/proc/sys/net/ipv4/ip_unprivileged_port_start"
#define ALL_PORTS "0"

/* Setting with the ports that the kernel does not choose as the local port of an unbound socket
 * (ip-sysctl.rst). A client that tries to connect to a port in the sandbox before the program there
 * listens could otherwise get the same port as its local port. The socket would then be connected
 * to itself, and the program could not bind the port. */
#define RESERVED_PORTS "/proc/sys/net/ipv4/ip_local_reserved_ports"

/* Setting with the sizes of the TCP send buffer. pasta (of 2025) drops data for which its socket
 * has no room, and the sender then pauses for seconds. A maximum of 512 KiB avoids that, and a
 * connection to a near host keeps its full rate (bench/network.py). Half that size would slow down
 * a connection to a host with a latency of 20 ms. */
#define SEND_BUFFER "/proc/sys/net/ipv4/tcp_wmem"
#define SEND_BUFFER_SIZES "4096 16384 524288"

static int bring_up_loopback(struct un_error *err)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    un_auto_close int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (any < 0 || ioctl(any, SIOCSIFFLAGS, &request))
        return un_fail_errno(err, UN_STEP_NETWORK, "can't bring up the loopback device");
    return 0;
}

/* Changes a setting of this network namespace. Ignores a failure, because /proc/sys is read-only in
 * containers, and the network works without the setting. */
static void set_if_writable(const char *path, const char *value)
{
    un_auto_close int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file >= 0)
        (void)!write(file, value, strlen(value));
}

/* Reserves the ports in the sandbox to which published ports are forwarded, if /proc/sys is
 * writable. */
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
    un_fail(err, UN_STEP_NETWORK, errno, NULL, "can't listen on port %u of the sandbox", port);
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

/* Creates pasta's TAP device. The kernel removes this persistent device in the background when the
 * namespace ends. If pasta itself created the device, pasta's exit, and thus the end of the
 * sandbox, would wait for the removal. The device gets an owner, because even processes without
 * capabilities could open a device that has no owner. */
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

/* Creates the network namespace and the listening sockets in it, and sends descriptors of them over
 * `socket`. Returns 0, or -1 with the error in `err`. */
static int make(const struct network *network, int socket, struct un_error *err)
{
    /* EPERM means that a seccomp filter denies the call, because the kernel allows root in a user
     * namespace to create a network namespace. */
    if (unshare(CLONE_NEWNET))
        return un_fail(err, UN_STEP_UNSHARE, errno,
                       errno == EPERM ? "seccomp-denies-network" : NULL,
                       "can't enter a new network namespace");
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
    /* Run nft here, while the parent starts pasta. */
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
