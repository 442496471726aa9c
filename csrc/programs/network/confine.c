/*
 * Restricting the processes that forward published ports, because they handle data from untrusted
 * clients on the network and from untrusted programs in the sandbox.
 *
 * The listening sockets, and the sockets that accept4(2) returns, belong to the host's network
 * namespace. A process that could call connect(2) on such a socket with an arbitrary address could
 * reach the host: connect(2) with AF_UNSPEC makes the socket unconnected (tcp_disconnect() in
 * net/ipv4/tcp.c), and a second connect(2) opens another connection.
 *
 * A seccomp filter sees the value of a pointer argument, but not the memory to which it points. So
 * the filter allows connect(2) only with pointers to the structures on a read-only page, one for
 * each port in the sandbox. The filter allows no system call that could make the page writable or
 * replace it, and therefore none that allocates memory. The filter allows sendto(2) only without an
 * address, because with MSG_FASTOPEN sendto(2) could connect a socket. Listening sockets may only
 * accept connections.
 *
 * The bound sockets of published UDP ports could send to any address that the host can reach, so
 * two processes share them. The receiver reads the datagrams and addresses of clients, and can't
 * send to clients. The sender can send only to the addresses of clients: the filter allows
 * sendmsg(2) only with pointers to structures that the receiver fills in, in shared memory to which
 * the sender can't write.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "sys/sys.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Maximum number of instructions of a filter. A filter has two for each allowed system call, and up
 * to three for each port. */
#define FILTER_MAX 512
#define LOAD (BPF_LD | BPF_W | BPF_ABS)
#define IF_EQUAL (BPF_JMP | BPF_JEQ | BPF_K)
#define IF_GREATER_EQUAL (BPF_JMP | BPF_JGE | BPF_K)
#define IF_SET (BPF_JMP | BPF_JSET | BPF_K)
#define RETURN (BPF_RET | BPF_K)
#define DENY (SECCOMP_RET_ERRNO | EPERM)

/* System calls that the filters allow with any arguments in all restricted processes. */
static const uint32_t allowed[] = {
    SYS_close, SYS_exit_group, SYS_ppoll, SYS_read, SYS_rt_sigreturn, SYS_restart_syscall,
#ifdef SYS_poll
    SYS_poll,
#endif
};

struct filter {
    struct sock_filter line[FILTER_MAX];
    unsigned short count;
};

static void add_line(struct filter *filter, uint16_t code, uint32_t value, size_t yes, size_t no)
{
    filter->line[filter->count++] =
        (struct sock_filter){.code = code, .jt = (uint8_t)yes, .jf = (uint8_t)no, .k = value};
}

static void add_answer(struct filter *filter, uint32_t answer)
{
    add_line(filter, RETURN, answer, 0, 0);
}

/* Adds an instruction that loads the lower (`half` 0) or upper (`half` 1) half of a system call's
 * argument. The lower half comes first, because both supported architectures are little-endian. */
static void load_half(struct filter *filter, size_t index, size_t half)
{
    size_t offset = offsetof(struct seccomp_data, args) + index * sizeof(uint64_t);
    add_line(filter, LOAD, (uint32_t)(offset + half * sizeof(uint32_t)), 0, 0);
}

static void load_argument(struct filter *filter, size_t index)
{
    load_half(filter, index, 0);
}

static void load_upper_half(struct filter *filter, size_t index)
{
    load_half(filter, index, 1);
}

/* Adds instructions that load the first argument of the system call, a descriptor, and that skip
 * the `more` instructions after them if the descriptor is the socket of a published port. */
static void add_port_jumps(struct filter *filter, const struct ports *ports, size_t more)
{
    load_argument(filter, 0);
    for (size_t i = 0; i < ports->count; i++)
        add_line(filter, IF_EQUAL, (uint32_t)ports->port[i].socket, ports->count - 1 - i + more, 0);
}

/* Adds instructions that allow shutdown(2) for all sockets but those of published ports. */
static void add_shutdown(struct filter *filter, const struct ports *ports)
{
    add_line(filter, IF_EQUAL, SYS_shutdown, 0, ports->count + 3);
    add_port_jumps(filter, ports, 1);
    add_answer(filter, SECCOMP_RET_ALLOW);
    add_answer(filter, DENY);
}

/* Adds instructions that allow connect(2) with a pointer to one of the structures in `inside`, for
 * all sockets but those of published ports. */
static void add_connect(struct filter *filter, const struct ports *ports,
                        const struct sockaddr_in *inside)
{
    size_t count = ports->count;
    add_line(filter, IF_EQUAL, SYS_connect, 0, 2 * count + 6);
    add_port_jumps(filter, ports, count + 3);
    load_upper_half(filter, 1);
    /* The structures are on one page, so the upper halves of their addresses are equal. */
    add_line(filter, IF_EQUAL, (uint32_t)((uint64_t)(uintptr_t)inside >> 32), 0, count + 1);
    load_argument(filter, 1);
    for (size_t i = 0; i < count; i++)
        add_line(filter, IF_EQUAL, (uint32_t)(uintptr_t)&inside[i], count - i, 0);
    add_answer(filter, DENY);
    add_answer(filter, SECCOMP_RET_ALLOW);
}

/* Adds instructions that allow sendto(2) without an address. libcs implement send(2) in this
 * way. */
static void add_send(struct filter *filter)
{
    add_line(filter, IF_EQUAL, SYS_sendto, 0, 6);
    load_upper_half(filter, 4);
    add_line(filter, IF_EQUAL, 0, 0, 3);
    load_argument(filter, 4);
    add_line(filter, IF_EQUAL, 0, 0, 1);
    add_answer(filter, SECCOMP_RET_ALLOW);
    add_answer(filter, DENY);
}

/* Adds instructions that allow sendmsg(2) with a pointer to one of the structures in `replies`. The
 * array is aligned to its size, so the upper halves of its addresses are equal. */
static void add_reply(struct filter *filter, const struct client_reply *replies)
{
    uintptr_t first = (uintptr_t)replies, last = (uintptr_t)(replies + CLIENTS_MAX - 1);
    add_line(filter, IF_EQUAL, SYS_sendmsg, 0, 8);
    load_upper_half(filter, 1);
    add_line(filter, IF_EQUAL, (uint32_t)((uint64_t)first >> 32), 0, 5);
    load_argument(filter, 1);
    add_line(filter, IF_GREATER_EQUAL, (uint32_t)first, 0, 3);
    add_line(filter, IF_GREATER_EQUAL, (uint32_t)last + 1, 2, 0);
    add_line(filter, IF_SET, sizeof *replies - 1, 1, 0);
    add_answer(filter, SECCOMP_RET_ALLOW);
    add_answer(filter, DENY);
}

/* Adds instructions that allow socket(2) with AF_INET. */
static void add_socket(struct filter *filter)
{
    add_line(filter, IF_EQUAL, SYS_socket, 0, 4);
    load_argument(filter, 0);
    add_line(filter, IF_EQUAL, AF_INET, 0, 1);
    add_answer(filter, SECCOMP_RET_ALLOW);
    add_answer(filter, DENY);
}

/* Starts a filter: adds instructions that allow the system calls in `allowed` and `more` with any
 * arguments. */
static void begin_filter(struct filter *filter, const uint32_t *more, size_t count)
{
    size_t common = sizeof allowed / sizeof *allowed;
    filter->count = 0;
    add_line(filter, LOAD, offsetof(struct seccomp_data, arch), 0, 0);
    add_line(filter, IF_EQUAL, UN_AUDIT_ARCH, 1, 0);
    add_answer(filter, SECCOMP_RET_KILL_PROCESS);
    add_line(filter, LOAD, offsetof(struct seccomp_data, nr), 0, 0);
    for (size_t i = 0; i < common + count; i++) {
        add_line(filter, IF_EQUAL, i < common ? allowed[i] : more[i - common], 0, 1);
        add_answer(filter, SECCOMP_RET_ALLOW);
    }
}

static bool install_filter(struct filter *filter)
{
    add_answer(filter, DENY);
    const struct sock_fprog program = {filter->count, filter->line};
    return !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

/* Returns an array with the address of each port in the sandbox, on a read-only page, or NULL with
 * errno set. */
static const struct sockaddr_in *make_addresses(const struct ports *ports)
{
    size_t size = PORTS_MAX * sizeof(struct sockaddr_in);
    struct sockaddr_in *inside =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (inside == MAP_FAILED)
        return NULL;
    for (size_t i = 0; i < ports->count; i++)
        inside[i] = (struct sockaddr_in){.sin_family = AF_INET,
                                         .sin_port = htons(ports->port[i].inside),
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return mprotect(inside, size, PROT_READ) ? NULL : inside;
}

bool drop_privileges(void)
{
    struct un_cap_sets none = {.data = {{0}}};
    return !un_caps_set(&none) && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* Closes all descriptors except standard input, output and error, the sockets of `ports`, and the
 * descriptors in `others`. Gives up access to the filesystem, and all capabilities. Returns false
 * with errno set on failure. */
static bool give_up(const struct ports *ports, const int others[2])
{
    struct un_error err;
    int keep[PORTS_MAX + 2];
    memcpy(keep, others, 2 * sizeof *keep);
    for (size_t i = 0; i < ports->count; i++)
        keep[i + 2] = ports->port[i].socket;
    size_t count = un_sort_fds(keep, ports->count + 2);
    /* Change the root directory to /proc/self/fdinfo, where no process can create files. */
    return !un_close_fds(keep, count, &err) && !chroot("/proc/self/fdinfo") && !chdir("/") &&
           drop_privileges();
}

static int fail_confinement(struct un_error *err)
{
    return un_fail_errno(err, UN_STEP_NETWORK,
                         "can't confine the process that forwards published ports");
}

const struct sockaddr_in *confine_forwarder(const struct network *network, int socket,
                                            struct un_error *err)
{
    static const uint32_t more[] = {SYS_accept4, SYS_getsockopt};
    static struct filter filter;
    const struct sockaddr_in *inside = make_addresses(&network->tcp);
    begin_filter(&filter, more, sizeof more / sizeof *more);
    add_shutdown(&filter, &network->tcp);
    add_connect(&filter, &network->tcp, inside);
    add_send(&filter);
    add_socket(&filter);
    if (inside && give_up(&network->tcp, (int[]){socket, socket}) && install_filter(&filter))
        return inside;
    fail_confinement(err);
    return NULL;
}

int confine_receiver(const struct network *network, int sender, int report, struct un_error *err)
{
    static const uint32_t more[] = {SYS_recvmsg, SYS_clock_gettime};
    static struct filter filter;
    begin_filter(&filter, more, sizeof more / sizeof *more);
    add_send(&filter);
    if (give_up(&network->udp, (int[]){sender, report}) && install_filter(&filter))
        return 0;
    return fail_confinement(err);
}

const struct sockaddr_in *confine_sender(const struct network *network,
                                         struct client_reply *replies, int receiver, int report,
                                         struct un_error *err)
{
    static struct filter filter;
    const struct sockaddr_in *inside = make_addresses(&network->udp);
    begin_filter(&filter, NULL, 0);
    add_connect(&filter, &network->udp, inside);
    add_send(&filter);
    add_reply(&filter, replies);
    add_socket(&filter);
    if (inside && !mprotect(replies, CLIENTS_MAX * sizeof *replies, PROT_READ) &&
        give_up(&network->udp, (int[]){receiver, report}) && install_filter(&filter))
        return inside;
    fail_confinement(err);
    return NULL;
}
