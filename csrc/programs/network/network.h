/* The parts of usernsctl-network. Internal. */
#ifndef USERNSCTL_PROGRAMS_NETWORK_H
#define USERNSCTL_PROGRAMS_NETWORK_H

#include "include/usernsctl.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#define LISTENERS_MAX 4
#define PREFIXES_MAX 2048
#define RULES_MAX 1000
#define PORTS_MAX 64
#define CLIENTS_MAX 256

/* A TCP socket that listens on 127.0.0.1 inside, and that another program accepts on. */
struct listener {
    uint16_t port;
    int socket; /* the Unix socket to which the listening socket is sent; then the pipe */
};

/* A port of this machine that leads to a port inside. */
struct port {
    const char *address; /* address of this machine, or NULL for an inherited socket */
    uint16_t outside, inside;
    int socket; /* bound to `outside`, and listening for TCP; -1 until then */
};

struct ports {
    struct port port[PORTS_MAX];
    size_t count;
};

struct network {
    const char *pasta; /* path of pasta, or NULL for a loopback device alone */
    struct listener listener[LISTENERS_MAX];
    size_t listener_count;
    const char *nft;              /* path of nft(8), if there is that of pasta */
    const char *allow[RULES_MAX]; /* conditions of nft(8) for packets that may leave; none: all */
    size_t allow_count;
    struct ports tcp, udp;
};

/* A range of addresses. */
struct prefix {
    int family; /* AF_INET or AF_INET6 */
    int length; /* in bits */
    unsigned char address[16];
};

struct prefixes {
    struct prefix prefix[PREFIXES_MAX];
    size_t count;
};

/* ---- routes.c -------------------------------------------------------------------------------- */

/* Adds the addresses of this machine, including broadcast and anycast addresses, and its gateways,
 * to `found`. */
int routes_of_machine(struct prefixes *found, struct un_error *err);
/* Makes the addresses unreachable in the network namespace of this process, so that connect(2)
 * fails at once. Binds only programs that name no device: see filter.c. */
int routes_deny(const struct prefixes *denied, struct un_error *err);
/* Routes the address of the name server to the device of pasta. Fails with the cause pasta-failed
 * if no process serves the device: pasta has ended. */
int route_name_server(const char *device, struct un_error *err);

/* ---- inside.c: in the network namespace of the sandbox --------------------------------------- */

/*
 * Runs in a child of the program: makes the network namespace, brings up its loopback device, and
 * sends a descriptor of the namespace over `socket`, then the listening sockets, in one message
 * each. Drops packets to the addresses in `denied` if network->pasta is set. After a byte
 * from `socket`, when pasta has started, makes these addresses unreachable. Answers with a byte,
 * and then forwards the published TCP ports, if there are any. After a failure, as without a device
 * of pasta, sends the fields of the error over `socket`, and ends.
 */
_Noreturn void run_inside(const struct network *network, const struct prefixes *denied, int socket);

/* ---- filter.c: nft ------------------------------------------------------------------------- */

/* Drops packets that leave this network namespace for a denied address, and, if there are
 * conditions, packets that meet none of them. */
int filter_output(const struct network *network, const struct prefixes *denied,
                  struct un_error *err);

/* ---- bind.c: published ports ------------------------------------------------------------------
 */

/* Makes a socket for each port of this machine that is not inherited, in the network namespace of
 * this process. */
int bind_ports(struct network *network, struct un_error *err);
void close_ports(const struct network *network);

/* ---- forward.c: published TCP ports -----------------------------------------------------------
 */

/* Restricts this process (confine.c), and sends a byte, or the fields of an error, over `socket`.
 * Then forwards connections of the published ports to 127.0.0.1 in the network namespace of this
 * process. */
_Noreturn void forward_ports(const struct network *network, int socket);

/* ---- udp.c: published UDP ports ---------------------------------------------------------------
 */

/* The argument of sendmsg(2) for replies to a client, in memory that only the receiver may write
 * to. The size, 128 bytes, lets a filter check a pointer to one. */
struct client_reply {
    struct msghdr head; /* the pointers in this header never change */
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
        char bytes[sizeof(struct sockaddr_in6)]; /* bytes that an address does not use are 0 */
    } address;
    /* The address of this machine that the client has named, as IP_PKTINFO or IPV6_PKTINFO. */
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } from;
};

/* Returns CLIENTS_MAX structures, aligned to their common size, in memory that children share, or
 * NULL with errno. Replies consist of the bytes in `answer`. */
struct client_reply *make_replies(struct iovec *answer);
/* Starts the processes that serve the published UDP ports, with the network namespace `namespace`.
 * Returns when both have been restricted. */
int start_udp(const struct network *network, int namespace, struct un_error *err);

/* ---- confine.c ------------------------------------------------------------------------------- */

/* Drops all capabilities, which only the start of the network needs. Returns false with errno. */
bool drop_privileges(void);
/* Gives up all descriptors but `socket` and the listening sockets, all files, all capabilities, and
 * all system calls that forward_ports() does not need. The process can't allocate memory then.
 * Returns the address of each port inside: connect(2) fails with all other pointers. Returns NULL
 * with err filled in after a failure. */
const struct sockaddr_in *confine_forwarder(const struct network *network, int socket,
                                            struct un_error *err);
/* Restricts the process that receives the datagrams of clients, like confine_forwarder(). The
 * process keeps the sockets of the published UDP ports, `sender` and `report`. It can't send to
 * clients or connect. */
int confine_receiver(const struct network *network, int sender, int report, struct un_error *err);
/* Restricts the process that sends datagrams to the programs inside, and their answers to the
 * clients, like confine_forwarder(). The process can call sendmsg(2) only with a pointer to one of
 * CLIENTS_MAX `replies`, which become read-only. */
const struct sockaddr_in *confine_sender(const struct network *network,
                                         struct client_reply *replies, int receiver, int report,
                                         struct un_error *err);

/* ---- helper.c: pasta ------------------------------------------------------------------------- */

/* The device of pasta, and the addresses of the name server inside. */
#define DEVICE "eth0"
#define TUN "/dev/net/tun"
#define NAME_SERVER_4 "169.254.1.1"
#define NAME_SERVER_6 "fd75:6e73::53"

/* Starts pasta for a network namespace, and returns when the device is ready. */
int start_pasta(const char *path, int namespace, struct un_error *err);

#endif
