/*
 * Forwarding datagrams from published UDP ports of the host to ports in the sandbox, and the
 * answers back to the clients.
 *
 * Two processes forward the datagrams, so that neither can send datagrams to arbitrary addresses of
 * the host's networks (confine.c). The receiver has the list of clients, and passes their datagrams
 * to the sender over a socket. The sender has a socket for each client, in the sandbox's network
 * namespace, connected to the port in the sandbox.
 *
 * The receiver removes a client that was silent for CLIENT_MS. When the list is full, it removes
 * the client that was silent for the longest time. The receiver reports the removal to the sender,
 * and reuses the client's number only after the sender has confirmed that the client's socket is
 * closed. So no answer for one client can reach another.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define CLIENT_MS 60000
#define DATAGRAM_MAX 65536

_Static_assert(sizeof(struct client_reply) == 128, "the filter needs a power of two");
#define REPLIES_SIZE (CLIENTS_MAX * sizeof(struct client_reply))

/* A message from the receiver to the sender: a client's datagram, or the report that a client was
 * removed. The sender confirms the report by sending back the client's number. */
struct message {
    uint16_t client, port; /* number of the client, and index of the published port */
    bool is_end;
    char bytes[DATAGRAM_MAX];
};

#define HEAD_BYTES offsetof(struct message, bytes)

struct receiver {
    const struct ports *ports;
    int sender;
    struct client_reply *reply; /* array of headers for replies, indexed by the client's number */
    struct {
        /* time of the client's last datagram in ms (un_now_ms()), or 0 if the element is not in
         * use */
        int64_t active;
        uint16_t port;
    } client[CLIENTS_MAX];
    size_t count;
    /* whether the sender has not confirmed yet that a removed client's socket is closed */
    bool is_ending;
    struct message message;
};

struct sender {
    const struct ports *ports;
    int receiver;
    const struct client_reply *reply;
    const struct sockaddr_in *inside; /* address of each port in the sandbox (confine.c) */
    /* socket of each client, or -1; the last element polls the socket `receiver` */
    struct pollfd polled[CLIENTS_MAX + 1];
    uint16_t port[CLIENTS_MAX]; /* index of the published port of each client */
    struct message message;
    char answer[DATAGRAM_MAX];
};

/* The data of a reply, to which the headers of all structures in `reply` point. Static, so that it
 * has the same address in both processes. */
static struct iovec reply_bytes;

/* ---- the receiver: passing datagrams from the clients to the sender -------------------------- */

/* Stores in found->from the host's address to which a datagram was sent. `head` is the header that
 * recvmsg(2) has filled in. */
static void store_destination(struct msghdr *head, struct client_reply *found)
{
    struct cmsghdr *from = (void *)found->from.bytes;
    for (const struct cmsghdr *one = CMSG_FIRSTHDR(head); one;
         one = CMSG_NXTHDR(head, (struct cmsghdr *)(uintptr_t)one)) {
        struct in_pktinfo *four = (void *)CMSG_DATA(from);
        struct in6_pktinfo *six = (void *)CMSG_DATA(from);
        bool is_4 = one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_PKTINFO;
        bool is_6 = one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == IPV6_PKTINFO;
        size_t size = is_4 ? sizeof *four : sizeof *six;
        if ((!is_4 && !is_6) || one->cmsg_len < CMSG_LEN(size))
            continue;
        memcpy(from, one, CMSG_LEN(size));
        from->cmsg_len = CMSG_LEN(size);
        found->head.msg_controllen = CMSG_SPACE(size);
        /* Set the interface index to 0, so that the kernel chooses the device for the answer by
         * routing. */
        if (is_4)
            four->ipi_ifindex = 0;
        else
            six->ipi6_ifindex = 0;
    }
}

/* Returns the number of the client whose addresses are in `found`. Adds the client to the list if
 * it is absent. Returns CLIENTS_MAX if the client is absent and the list is full. */
static size_t find_client(struct receiver *receiver, uint16_t port,
                          const struct client_reply *found)
{
    size_t unused = CLIENTS_MAX;
    for (size_t i = CLIENTS_MAX; i-- > 0;) {
        const struct client_reply *reply = &receiver->reply[i];
        if (!receiver->client[i].active)
            unused = i;
        else if (receiver->client[i].port == port &&
                 !memcmp(reply->address.bytes, found->address.bytes, sizeof found->address.bytes) &&
                 !memcmp(reply->from.bytes, found->from.bytes, sizeof found->from.bytes))
            return i;
    }
    if (unused < CLIENTS_MAX) {
        struct client_reply *reply = &receiver->reply[unused];
        memcpy(&reply->address, &found->address, sizeof found->address);
        memcpy(&reply->from, &found->from, sizeof found->from);
        reply->head.msg_namelen = found->head.msg_namelen;
        reply->head.msg_controllen = found->head.msg_controllen;
        receiver->client[unused].port = port;
        receiver->count++;
    }
    return unused;
}

/* Sends receiver->message to the process that sends to the sandbox. If memory is insufficient, or
 * the socket does not accept a message of this length (net.core.wmem_default), drops the datagram
 * instead of exiting, so that no client can end the forwarding. Exits after any other failure. */
static void send_message(struct receiver *receiver, size_t length)
{
    if (send(receiver->sender, &receiver->message, HEAD_BYTES + length, MSG_NOSIGNAL) >= 0)
        return;
    bool is_full = errno == ENOBUFS || errno == ENOMEM || errno == EMSGSIZE;
    if (!is_full || receiver->message.is_end)
        _exit(1);
}

/* Receives a client's datagram, and passes it to the sender. */
static void receive_datagram(struct receiver *receiver, uint16_t port)
{
    struct client_reply found;
    struct message *message = &receiver->message;
    struct iovec bytes = {message->bytes, sizeof message->bytes};
    union {
        struct cmsghdr align;
        char bytes[2 * CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control;
    memset(&found, 0, sizeof found);
    struct msghdr head = {.msg_name = &found.address,
                          .msg_namelen = sizeof found.address,
                          .msg_iov = &bytes,
                          .msg_iovlen = 1,
                          .msg_control = &control,
                          .msg_controllen = sizeof control};
    ssize_t length = recvmsg(receiver->ports->port[port].socket, &head, MSG_DONTWAIT);
    if (length < 0)
        return;
    found.head.msg_namelen = head.msg_namelen;
    store_destination(&head, &found);
    size_t client = find_client(receiver, port, &found);
    if (client == CLIENTS_MAX)
        return;
    receiver->client[client].active = un_now_ms();
    message->client = (uint16_t)client;
    message->port = port;
    message->is_end = false;
    send_message(receiver, (size_t)length);
}

/* Asks the sender to close the socket of the client that was silent for the longest time, if that
 * time exceeds CLIENT_MS or the list is full. Returns the time in ms until the next call is due, or
 * -1 if no call is needed before the next event. */
static int end_oldest(struct receiver *receiver)
{
    size_t oldest = CLIENTS_MAX;
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        if (receiver->client[i].active &&
            (oldest == CLIENTS_MAX || receiver->client[i].active < receiver->client[oldest].active))
            oldest = i;
    if (oldest == CLIENTS_MAX || receiver->is_ending)
        return -1;
    int64_t left = receiver->client[oldest].active + CLIENT_MS - un_now_ms();
    if (left > 0 && receiver->count < CLIENTS_MAX)
        return (int)left;
    receiver->message.client = (uint16_t)oldest;
    receiver->message.is_end = true;
    receiver->is_ending = true;
    send_message(receiver, 0);
    return -1;
}

/* Receives the sender's confirmation that a client's socket is closed, and removes the client from
 * the list. */
static void receive_end(struct receiver *receiver)
{
    uint16_t client;
    if (read(receiver->sender, &client, sizeof client) != sizeof client || client >= CLIENTS_MAX)
        _exit(1);
    if (receiver->client[client].active)
        receiver->count--;
    receiver->client[client].active = 0;
    receiver->is_ending = false;
}

static _Noreturn void receive_datagrams(struct receiver *receiver)
{
    size_t count = receiver->ports->count;
    struct pollfd polled[PORTS_MAX + 1];
    for (;;) {
        int timeout = end_oldest(receiver);
        /* Leave new datagrams in the sockets' buffers while the list is full. */
        bool has_room = receiver->count < CLIENTS_MAX;
        for (size_t i = 0; i < count; i++)
            polled[i] = (struct pollfd){.fd = has_room ? receiver->ports->port[i].socket : -1,
                                        .events = POLLIN};
        polled[count] = (struct pollfd){.fd = receiver->sender, .events = POLLIN};
        if (poll(polled, count + 1, timeout) < 0)
            continue;
        if (polled[count].revents)
            receive_end(receiver);
        for (size_t i = 0; i < count; i++)
            if (polled[i].revents)
                receive_datagram(receiver, (uint16_t)i);
    }
}

/* ---- the sender: passing datagrams to the sandbox, and answers to the clients ---------------- */

static void end_client(struct sender *sender, uint16_t client)
{
    un_close_quietly(sender->polled[client].fd);
    sender->polled[client] = (struct pollfd){.fd = -1};
    if (send(sender->receiver, &client, sizeof client, MSG_NOSIGNAL) < 0)
        _exit(1);
}

/* Creates the socket of a new client, and connects it to the port in the sandbox. */
static void begin_client(struct sender *sender, uint16_t client, uint16_t port)
{
    const struct sockaddr_in *inside = &sender->inside[port];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)inside, sizeof *inside)) {
        close(fd);
        fd = -1;
    }
    sender->polled[client] = (struct pollfd){.fd = fd, .events = POLLIN};
    sender->port[client] = port;
}

/* Receives a message from the receiver. Sends a datagram to the program in the sandbox, or removes
 * a client. A datagram is lost if the program's socket is full, or if the program does not
 * listen. */
static void receive_message(struct sender *sender)
{
    struct message *message = &sender->message;
    ssize_t got = read(sender->receiver, message, sizeof *message);
    if (got < (ssize_t)HEAD_BYTES || message->client >= CLIENTS_MAX ||
        message->port >= sender->ports->count)
        _exit(1);
    struct pollfd *polled = &sender->polled[message->client];
    size_t length = (size_t)got - HEAD_BYTES;
    if (message->is_end) {
        end_client(sender, message->client);
        return;
    }
    if (polled->fd < 0)
        begin_client(sender, message->client, message->port);
    /* Repeat send(2) after ECONNREFUSED, because the kernel also reports by this errno that the
     * program did not listen when the previous datagram arrived. */
    if (polled->fd >= 0 && send(polled->fd, message->bytes, length, MSG_NOSIGNAL) < 0 &&
        errno == ECONNREFUSED)
        (void)!send(polled->fd, message->bytes, length, MSG_NOSIGNAL);
}

/* Receives an answer from the program in the sandbox, and sends the answer to the client. */
static void pass_answer(struct sender *sender, size_t client)
{
    ssize_t length = read(sender->polled[client].fd, sender->answer, sizeof sender->answer);
    if (length < 0)
        return;
    reply_bytes = (struct iovec){sender->answer, (size_t)length};
    int bound = sender->ports->port[sender->port[client]].socket;
    /* Use syscall(2), because musl's sendmsg() copies the header, and the seccomp filter allows
     * only pointers to the structures in `reply`. */
    syscall(SYS_sendmsg, bound, &sender->reply[client].head, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static _Noreturn void send_datagrams(struct sender *sender)
{
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        sender->polled[i] = (struct pollfd){.fd = -1};
    sender->polled[CLIENTS_MAX] = (struct pollfd){.fd = sender->receiver, .events = POLLIN};
    for (;;) {
        if (poll(sender->polled, CLIENTS_MAX + 1, -1) < 0)
            continue;
        for (size_t i = 0; i < CLIENTS_MAX; i++)
            if (sender->polled[i].revents)
                pass_answer(sender, i);
        if (sender->polled[CLIENTS_MAX].revents)
            receive_message(sender);
    }
}

/* ---- starting the receiver and the sender ---------------------------------------------------- */

struct client_reply *make_replies(struct iovec *answer)
{
    char *bytes =
        mmap(NULL, 2 * REPLIES_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        return NULL;
    struct client_reply *replies = (void *)(bytes + -(uintptr_t)bytes % REPLIES_SIZE);
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        replies[i].head = (struct msghdr){.msg_name = &replies[i].address,
                                          .msg_iov = answer,
                                          .msg_iovlen = 1,
                                          .msg_control = &replies[i].from};
    return replies;
}

/* Sets the socket options that make recvmsg(2) report the host's address to which a datagram was
 * sent. Returns 0, or -1 with errno set. */
static int want_destinations(const struct ports *ports)
{
    int on = 1;
    for (size_t i = 0; i < ports->count; i++) {
        int socket = ports->port[i].socket;
        if (setsockopt(socket, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) &&
            setsockopt(socket, IPPROTO_IP, IP_PKTINFO, &on, sizeof on))
            return -1;
    }
    return 0;
}

/* Reports over the socket `report` that this process is ready. If `is_ready` is not set, sends the
 * error in `err` instead, and exits. Also exits if sending fails. */
static void report_start(int report, bool is_ready, struct un_error *err)
{
    if (!is_ready)
        error_send(report, err);
    if (!is_ready || send(report, "+", 1, MSG_NOSIGNAL) != 1)
        _exit(1);
    close(report);
}

static _Noreturn void run_receiver(const struct network *network, struct client_reply *replies,
                                   int sender, int report)
{
    static struct receiver receiver;
    struct un_error err;
    receiver.ports = &network->udp;
    receiver.reply = replies;
    receiver.sender = sender;
    report_start(report, !confine_receiver(network, sender, report, &err), &err);
    receive_datagrams(&receiver);
}

static _Noreturn void run_sender(const struct network *network, struct client_reply *replies,
                                 int receiver, int report)
{
    static struct sender sender;
    struct un_error err;
    sender.ports = &network->udp;
    sender.reply = replies;
    sender.receiver = receiver;
    sender.inside = confine_sender(network, replies, receiver, report, &err);
    report_start(report, sender.inside, &err);
    send_datagrams(&sender);
}

static int wait_for_start(int report, struct un_error *err)
{
    char text[ERROR_FIELDS_MAX];
    ssize_t length = read(report, text, sizeof text);
    if (length == 1 || (length > 0 && error_parse(text, (size_t)length, err)))
        return length == 1 ? 0 : -1;
    return un_fail(err, UN_STEP_NETWORK, 0, NULL,
                   "a process for published UDP ports ended without a report");
}

int start_udp(const struct network *network, int namespace, struct un_error *err)
{
    int ends[2], reports[2];
    pid_t started = 1;
    struct client_reply *replies = make_replies(&reply_bytes);
    if (!replies || want_destinations(&network->udp) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, reports))
        return un_fail_errno(err, UN_STEP_NETWORK,
                             "can't create the sockets or buffers for published UDP ports");
    for (int i = 0; i < 2 && started > 0; i++) {
        started = un_fork();
        if (started)
            continue;
        if (setns(namespace, CLONE_NEWNET)) {
            un_fail_errno(err, UN_STEP_SETNS, "can't join the network namespace of the sandbox");
            report_start(reports[1], false, err);
        }
        if (i)
            run_sender(network, replies, ends[1], reports[1]);
        run_receiver(network, replies, ends[0], reports[1]);
    }
    int failed = started < 0 ? un_fail_errno(err, UN_STEP_NETWORK, "fork") : 0;
    close(reports[1]);
    failed = failed || wait_for_start(reports[0], err) || wait_for_start(reports[0], err);
    close(reports[0]);
    for (int i = 0; i < 2; i++)
        close(ends[i]);
    return failed ? -1 : 0;
}
