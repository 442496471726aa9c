/* Declarations that the source files of usernsctl-network share. Internal to usernsctl. */
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

/* A TCP socket that listens on a port of 127.0.0.1 in the sandbox's network namespace, for a
 * program outside of the namespace. */
struct listener {
    uint16_t port;
    /* Unix socket over which the listening socket is sent; afterwards the write end of the pipe
     * whose read end was sent */
    int socket;
};

/* A published port, that is, a port of the host from which traffic is forwarded to a port in the
 * sandbox. */
struct port {
    const char *address; /* address of the host to bind, or NULL if the socket is inherited */
    uint16_t outside, inside;
    int socket; /* socket bound to `outside`, and for TCP also listening; -1 before it exists */
};

struct ports {
    struct port port[PORTS_MAX];
    size_t count;
};

struct network {
    const char *pasta; /* path of pasta, or NULL for a namespace with only a loopback device */
    struct listener listener[LISTENERS_MAX];
    size_t listener_count;
    const char *nft; /* path of nft(8), or NULL if `pasta` is NULL */
    /* conditions of nft(8); if the array is not empty, packets that meet none of the conditions are
     * dropped */
    const char *allow[RULES_MAX];
    size_t allow_count;
    struct ports tcp, udp;
};

/* A range of IP addresses. */
struct prefix {
    int family; /* AF_INET or AF_INET6 */
    int length; /* length of the prefix in bits */
    unsigned char address[16];
};

struct prefixes {
    struct prefix prefix[PREFIXES_MAX];
    size_t count;
};

/* ---- routes.c: addresses that sandboxes must not reach --------------------------------------- */

/* Adds to `found` the addresses that sandboxes must not reach: link-local and similar addresses,
 * the host's addresses including broadcast and anycast addresses, and the host's gateways. Returns
 * 0, or -1 with the error in `err`. */
int routes_of_machine(struct prefixes *found, struct un_error *err);
/* Adds unreachable routes for the denied addresses to the network namespace of this process, so
 * that connect(2) to them fails immediately. A socket that is bound to a network device bypasses
 * these routes, but not the packet filter (filter.c). Returns 0, or -1 with the error in `err`. */
int routes_deny(const struct prefixes *denied, struct un_error *err);
/* Adds a route to the name server by `device`, the device of pasta. Fails with the cause
 * pasta-failed if no process serves the device. Returns 0, or -1 with the error in `err`. */
int route_name_server(const char *device, struct un_error *err);

/* ---- inside.c: setting up the network namespace of the sandbox ------------------------------- */

/*
 * Runs in a child of usernsctl-network, and does not return. Creates the network namespace, brings
 * up its loopback device, and sends a descriptor of the namespace over `socket`, followed by the
 * listening sockets, each in its own message. If network->pasta is set, installs the packet filter,
 * which drops packets to the addresses in `denied`.
 *
 * When pasta has started, the parent sends a byte over `socket`. This process then adds unreachable
 * routes for the denied addresses, answers with a byte, and forwards the published TCP ports, or
 * exits if there are none. After a failure, it sends the fields of the error over `socket`, and
 * exits.
 */
_Noreturn void run_inside(const struct network *network, const struct prefixes *denied, int socket);

/* ---- filter.c: installing the packet filter of the sandbox's network namespace --------------- */

/* Installs a packet filter in the network namespace of this process. The filter drops packets to
 * the addresses in `denied`, and, if network->allow is not empty, packets that meet none of its
 * conditions. Returns 0, or -1 with the error in `err`. */
int filter_output(const struct network *network, const struct prefixes *denied,
                  struct un_error *err);

/* ---- bind.c: creating the sockets of published ports on the host ----------------------------- */

/* Creates the sockets of those published ports whose socket is not inherited, in the network
 * namespace of this process. Returns 0, or -1 with the error in `err`. */
int bind_ports(struct network *network, struct un_error *err);
void close_ports(const struct network *network);

/* ---- forward.c: forwarding connections to published TCP ports -------------------------------- */

/* Restricts this process (confine.c), and sends a byte, or the fields of an error, over `socket`.
 * Then forwards connections from the host's published TCP ports to ports of 127.0.0.1 in the
 * network namespace of this process. */
_Noreturn void forward_ports(const struct network *network, int socket);

/* ---- udp.c: forwarding datagrams to published UDP ports -------------------------------------- */

/* The header of replies to one client, in memory to which only the receiver may write. The size is
 * a power of two, so that a seccomp filter can check whether a pointer refers to one of these
 * structures. */
struct client_reply {
    struct msghdr head; /* argument of sendmsg(2); the pointers in it never change */
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
        /* the bytes of the address; unused bytes are 0 */
        char bytes[sizeof(struct sockaddr_in6)];
    } address;
    /* Control message IP_PKTINFO or IPV6_PKTINFO with the host's address to which the client has
     * sent its datagram. */
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } from;
};

/* Returns an array of CLIENTS_MAX structures, in memory that forked children share, aligned to the
 * size of the array, or NULL with errno set. All headers refer to `answer` for the data to send. */
struct client_reply *make_replies(struct iovec *answer);
/* Starts the two processes that serve the published UDP ports in the network namespace `namespace`.
 * Returns 0 when both are restricted (confine.c), or -1 with the error in `err`. */
int start_udp(const struct network *network, int namespace, struct un_error *err);

/* ---- confine.c: restricting the processes that forward ports --------------------------------- */

/* Drops all capabilities, which are needed only to create the network, and sets no_new_privs.
 * Returns false with errno set on failure. */
bool drop_privileges(void);
/*
 * Restricts the process that forwards TCP ports: closes all descriptors except `socket` and the
 * listening sockets, and gives up access to files, all capabilities, and all system calls that
 * forward_ports() does not need. Afterwards this process can't allocate memory.
 *
 * Returns an array with the address of each port in the sandbox, or NULL with the error in `err`.
 * connect(2) then works only with a pointer to an element of this array.
 */
const struct sockaddr_in *confine_forwarder(const struct network *network, int socket,
                                            struct un_error *err);
/* Restricts the process that receives the datagrams of clients, as confine_forwarder() does. The
 * process keeps the sockets of the published UDP ports, `sender` and `report`, but can neither send
 * to clients nor connect a socket. Returns 0, or -1 with the error in `err`. */
int confine_receiver(const struct network *network, int sender, int report, struct un_error *err);
/* Restricts the process that sends clients' datagrams to programs in the sandbox, and the programs'
 * answers to the clients, as confine_forwarder() does. The process can call sendmsg(2) only with a
 * pointer to one of the CLIENTS_MAX structures in `replies`, which become read-only for it. Returns
 * an array with the address of each port in the sandbox, or NULL with the error in `err`. */
const struct sockaddr_in *confine_sender(const struct network *network,
                                         struct client_reply *replies, int receiver, int report,
                                         struct un_error *err);

/* ---- helper.c: starting pasta ---------------------------------------------------------------- */

/* Name of pasta's device in the sandbox's network namespace. */
#define DEVICE "eth0"
/* Device file by which a TAP device is created. */
#define TUN "/dev/net/tun"
/* Addresses of the name server in the sandbox. */
#define NAME_SERVER_4 "169.254.1.1"
#define NAME_SERVER_6 "fd75:6e73::53"

/* Starts pasta for the network namespace `namespace`. Returns 0 when pasta's device is ready, or -1
 * with the error in `err`. */
int start_pasta(const char *path, int namespace, struct un_error *err);

#endif
