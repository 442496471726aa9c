/* Tests of confine.c, which restricts the processes that forward connections and datagrams to the
 * ports of a sandbox. */
#include "check.h"
#include "forked.h"
#include "programs/network/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK_DENIED(call)                                                                         \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK_INT((call), -1);                                                                     \
        CHECK_INT(errno, EPERM);                                                                   \
    } while (0)

/* Checks that the socket of an accepted client can't be connected to another address by connect(2)
 * or sendto(2). The socket belongs to the host's network namespace, so the restricted process could
 * otherwise reach the host. `inside` is the last allowed address. */
static void check_served(int served, const struct sockaddr_in *inside)
{
    struct sockaddr_in copy = *inside;
    const struct sockaddr unspecific = {.sa_family = AF_UNSPEC};
    uintptr_t allowed = (uintptr_t)inside;
    const uintptr_t others[] = {(uintptr_t)&unspecific,
                                (uintptr_t)&copy,
                                allowed + 1,
                                allowed - 1,
                                allowed + sizeof copy,
                                allowed + (1ULL << 32),
                                allowed - (1ULL << 32),
                                0};
    for (size_t i = 0; i < COUNT(others); i++)
        CHECK_DENIED((int)syscall(SYS_connect, served, others[i], sizeof copy));
    CHECK_DENIED((int)syscall(SYS_sendto, served, "x", 1, MSG_FASTOPEN, &copy, sizeof copy));
    CHECK_DENIED((int)syscall(SYS_sendto, served, "x", 1, MSG_FASTOPEN, 1ULL << 32, sizeof copy));
    /* connect(2) to an allowed address is not denied, but fails with EISCONN, because the socket is
     * already connected. */
    CHECK_INT(connect(served, (const struct sockaddr *)inside, sizeof *inside), -1);
    CHECK_INT(errno, EISCONN);
}

/* Connects a client to `inside`, the address on which the test itself listens, and accepts the
 * connection. Then checks the accepted socket. */
static void serve_one_client(int listener, const struct sockaddr_in *inside)
{
    char byte = 0;
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(client >= 0);
    CHECK_INT(connect(client, (const struct sockaddr *)inside, sizeof *inside), 0);
    int served = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct pollfd polled = {.fd = served, .events = POLLIN};
    CHECK(served >= 0);
    CHECK_INT(send(client, "x", 1, MSG_NOSIGNAL), 1);
    CHECK_INT(poll(&polled, 1, 1000), 1);
    CHECK_INT(read(served, &byte, 1), 1);
    CHECK_INT(byte, 'x');
    check_served(served, inside);
    CHECK_INT(shutdown(served, SHUT_WR), 0);
    check_served(served, inside);
    close(served);
    close(client);
}

/* Checks that the page with the addresses of the sandbox's ports can't be written or replaced. */
static void check_page(const struct sockaddr_in *inside, int readable)
{
    void *page = (void *)(uintptr_t)inside;
    socklen_t size = sizeof(int);
    CHECK_DENIED((int)syscall(SYS_mmap, page, 4096, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    CHECK_DENIED((int)syscall(SYS_mprotect, page, 4096, PROT_READ | PROT_WRITE));
    CHECK_DENIED((int)syscall(SYS_mremap, page, 4096, 8192, MREMAP_MAYMOVE));
    CHECK_DENIED((int)syscall(SYS_munmap, page, 4096));
    CHECK_DENIED((int)syscall(SYS_madvise, page, 4096, MADV_DONTNEED));
    CHECK_DENIED((int)syscall(SYS_brk, 0));
    /* System calls such as read(2) can't write to the page with the addresses, either. */
    CHECK_INT(syscall(SYS_read, readable, page, 1), -1);
    CHECK_INT(errno, EFAULT);
    CHECK_INT(syscall(SYS_getsockopt, readable, SOL_SOCKET, SO_TYPE, page, &size), -1);
    CHECK_INT(errno, EFAULT);
}

/* Restricts this process by confine_forwarder(), for one or more published ports. Checks which
 * system calls the process can still make. */
static int only_forwards(void *arg)
{
    static struct network network;
    struct un_error err;
    int report[2];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr unspecific = {.sa_family = AF_UNSPEC};
    socklen_t size = sizeof address;
    network.tcp.count = *(const size_t *)arg;
    for (size_t i = 0; i < network.tcp.count; i++) {
        network.tcp.port[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(network.tcp.port[i].socket >= 0);
    }
    int listener = network.tcp.port[network.tcp.count - 1].socket;
    CHECK_INT(bind(listener, (struct sockaddr *)&address, size), 0);
    CHECK_INT(listen(listener, 1), 0);
    CHECK_INT(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    network.tcp.port[network.tcp.count - 1].inside = ntohs(address.sin_port);
    CHECK_INT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, report), 0);
    CHECK_INT(send(report[1], "x", 1, 0), 1);
    int other = open("/dev/null", O_RDONLY);
    /* Enter a user namespace, in which confine_forwarder() may call chroot(2) without root. */
    if (unshare(CLONE_NEWUSER) && geteuid())
        return 0;
    const struct sockaddr_in *inside = confine_forwarder(&network, report[0], &err);
    CHECK(inside);
    CHECK_INT(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), -1);
    CHECK_INT(read(other, &size, 1), -1);
    CHECK_INT(errno, EBADF);
    check_page(inside, report[0]);
    CHECK_INT(close(report[0]), 0);
    serve_one_client(listener, &inside[network.tcp.count - 1]);
    /* The process must not be able to call connect(2) on the listening sockets: they belong to the
     * host's network namespace, so the process could reach the host through them. */
    for (size_t i = 0; i < network.tcp.count; i++) {
        CHECK_DENIED(connect(network.tcp.port[i].socket, &unspecific, sizeof unspecific));
        CHECK_DENIED(
            connect(network.tcp.port[i].socket, (const struct sockaddr *)&inside[i], size));
        CHECK_DENIED(shutdown(network.tcp.port[i].socket, SHUT_RDWR));
    }
    CHECK_DENIED(dup(listener));
    CHECK_DENIED(open("/dev/null", O_RDONLY));
    CHECK_DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_DENIED(socket(AF_NETLINK, SOCK_RAW, 0));
    CHECK_DENIED(fork());
    CHECK_DENIED(unshare(CLONE_NEWUSER));
    CHECK_DENIED(setns(0, 0));
    /* Use the system call: exit(3) with a sanitizer makes system calls that are forbidden now. */
    return (int)syscall(SYS_exit_group, 0);
}

/* Creates the socket of a published UDP port, bound to a free port of the host. The port in the
 * sandbox has the same number. */
static int bind_udp(struct network *network, struct sockaddr_in *address)
{
    socklen_t size = sizeof *address;
    int bound = socket(AF_INET, SOCK_DGRAM, 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    CHECK_INT(bind(bound, (struct sockaddr *)address, size), 0);
    CHECK_INT(getsockname(bound, (struct sockaddr *)address, &size), 0);
    network->udp.port[0] = (struct port){.inside = ntohs(address->sin_port), .socket = bound};
    network->udp.count = 1;
    return bound;
}

/* Checks that this process can neither open files, nor create sockets, other descriptors or
 * processes. */
static void check_no_others(void)
{
    CHECK_DENIED(dup(0));
    CHECK_DENIED(open("/dev/null", O_RDONLY));
    CHECK_DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_DENIED(socket(AF_NETLINK, SOCK_RAW, 0));
    CHECK_DENIED(fork());
    CHECK_DENIED(setns(0, 0));
}

static int only_receives(void *arg)
{
    static struct network network;
    struct un_error err;
    struct sockaddr_in address;
    char byte = 0;
    int ends[2], bound = bind_udp(&network, &address);
    struct iovec bytes = {&byte, 1};
    struct sockaddr_in from;
    (void)arg;
    CHECK_INT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    CHECK_INT(sendto(bound, "x", 1, 0, (struct sockaddr *)&address, sizeof address), 1);
    if (unshare(CLONE_NEWUSER) && geteuid())
        return 0;
    CHECK_INT(confine_receiver(&network, ends[0], ends[0], &err), 0);
    struct msghdr head = {
        .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &bytes, .msg_iovlen = 1};
    CHECK_INT(recvmsg(bound, &head, MSG_DONTWAIT), 1);
    CHECK_INT(from.sin_port, address.sin_port);
    CHECK_INT(send(ends[0], "x", 1, MSG_NOSIGNAL), -1);
    CHECK_INT(errno, EPIPE);
    /* Only the process that sends replies may send to clients, not the process that receives
     * datagrams. */
    CHECK_DENIED((int)sendto(bound, "x", 1, 0, (struct sockaddr *)&from, sizeof from));
    CHECK_DENIED((int)sendmsg(bound, &head, 0));
    CHECK_DENIED(connect(bound, (struct sockaddr *)&from, sizeof from));
    CHECK_DENIED(bind(bound, (struct sockaddr *)&from, sizeof from));
    CHECK_DENIED(socket(AF_INET, SOCK_DGRAM, 0));
    CHECK_INT(send(bound, "x", 1, 0), -1);
    CHECK_INT(errno, EDESTADDRREQ);
    check_no_others();
    return (int)syscall(SYS_exit_group, 0);
}

/* Checks that this process may call sendmsg(2) only with the structures in `replies`, which another
 * process, the receiver of datagrams, fills in, and that this process can't change these
 * structures. */
static void check_replies(int bound, struct client_reply *replies, int readable)
{
    struct client_reply copy = replies[CLIENTS_MAX - 1];
    uintptr_t first = (uintptr_t)replies, last = (uintptr_t)&replies[CLIENTS_MAX - 1];
    const uintptr_t others[] = {
        (uintptr_t)&copy,    first + 1, first + 8,          first + sizeof copy / 2,
        first - sizeof copy, last + 1,  last + sizeof copy, last + (1ULL << 32),
        last - (1ULL << 32), 0};
    for (size_t i = 0; i < COUNT(others); i++)
        CHECK_DENIED((int)syscall(SYS_sendmsg, bound, others[i], 0));
    /* The filter allows sendmsg(2) with each entry of the array. With the first entry, the call
     * fails, because that entry contains no address of a client. */
    CHECK_INT((int)syscall(SYS_sendmsg, bound, &replies[0].head, 0), -1);
    CHECK_INT((int)syscall(SYS_sendmsg, bound, &replies[CLIENTS_MAX - 1].head, 0), 1);
    CHECK_DENIED((int)sendto(bound, "x", 1, 0, &replies[0].address.any, sizeof(struct sockaddr)));
    CHECK_DENIED((int)syscall(SYS_mprotect, replies, 4096, PROT_READ | PROT_WRITE));
    CHECK_DENIED((int)syscall(SYS_mremap, replies, 4096, 8192, MREMAP_MAYMOVE));
    CHECK_DENIED((int)syscall(SYS_munmap, replies, 4096));
    CHECK_INT(syscall(SYS_read, readable, &replies[0].address, 1), -1);
    CHECK_INT(errno, EFAULT);
}

static int only_sends(void *arg)
{
    static struct network network;
    static char sent[] = "x";
    static struct iovec answer = {sent, 1};
    struct un_error err;
    struct sockaddr_in address, inside;
    char byte = 0;
    int ends[2], bound = bind_udp(&network, &address);
    struct client_reply *replies = make_replies(&answer);
    (void)arg;
    CHECK(replies);
    CHECK_INT((uintptr_t)replies % (CLIENTS_MAX * sizeof *replies), 0);
    replies[CLIENTS_MAX - 1].address.four = address;
    replies[CLIENTS_MAX - 1].head.msg_namelen = sizeof address;
    CHECK_INT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    CHECK_INT(send(ends[1], "x", 1, 0), 1);
    if (unshare(CLONE_NEWUSER) && geteuid())
        return 0;
    const struct sockaddr_in *allowed = confine_sender(&network, replies, ends[0], ends[0], &err);
    CHECK(allowed);
    check_replies(bound, replies, ends[0]);
    CHECK_INT(read(bound, &byte, 1), 1);
    CHECK_INT(byte, 'x');
    /* The socket of the published port can't be connected. Each client gets a new socket, which can
     * be connected to the port in the sandbox. */
    CHECK_DENIED(connect(bound, (const struct sockaddr *)allowed, sizeof *allowed));
    int client = socket(AF_INET, SOCK_DGRAM, 0);
    inside = *allowed;
    CHECK_DENIED(connect(client, (struct sockaddr *)&inside, sizeof inside));
    CHECK_INT(connect(client, (const struct sockaddr *)allowed, sizeof *allowed), 0);
    CHECK_INT(send(client, "y", 1, 0), 1);
    CHECK_INT(read(bound, &byte, 1), 1);
    CHECK_INT(byte, 'y');
    check_no_others();
    return (int)syscall(SYS_exit_group, 0);
}

int main(void)
{
    static size_t counts[] = {1, 2, PORTS_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        CHECK_INT(forked(only_forwards, &counts[i]), 0);
    CHECK_INT(forked(only_receives, NULL), 0);
    CHECK_INT(forked(only_sends, NULL), 0);
    return 0;
}
