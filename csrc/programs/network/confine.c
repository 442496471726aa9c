/*
 * The restrictions of the process that forwards connections of published ports. Clients outside and
 * programs inside send bytes to that process.
 *
 * The listening sockets, and those that accept4(2) returns, belong to the network namespace of this
 * machine. A process that can call connect(2) with any address for such a socket could reach this
 * machine: connect(2) to AF_UNSPEC ends the listening or the connection (tcp_disconnect() in
 * net/ipv4/tcp.c), and a second connect(2) then opens another connection. A seccomp filter sees the
 * address of an argument, and not the memory there. So connect(2) is allowed only with the address
 * of one of the structures on a read-only page, one for each port inside, and no call is allowed
 * that could make the page writable, or replace it. Hence the process can't allocate memory.
 * sendto(2) is allowed only without an address, since it could connect a socket by MSG_FASTOPEN.
 * The listening sockets may only accept.
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

/* Room for the instructions of the filter: two for each call, and three for each port. */
#define FILTER_MAX 512
#define LOAD (BPF_LD | BPF_W | BPF_ABS)
#define IF_EQUAL (BPF_JMP | BPF_JEQ | BPF_K)
#define IF_SET (BPF_JMP | BPF_JSET | BPF_K)
#define RETURN (BPF_RET | BPF_K)
#define DENY (SECCOMP_RET_ERRNO | EPERM)

/* The calls that are allowed with all arguments. */
static const uint32_t allowed[] = {
    SYS_accept4, SYS_close, SYS_exit_group,   SYS_getsockopt,
    SYS_ppoll,   SYS_read,  SYS_rt_sigreturn, SYS_restart_syscall,
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

/* Both architectures are little-endian, so the lower half of an argument comes first. */
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

/* Loads the descriptor, and jumps `more` lines beyond the lines that this function adds if it is
 * that of a listening socket. */
static void add_port_jumps(struct filter *filter, const struct network *network, size_t more)
{
    load_argument(filter, 0);
    for (size_t i = 0; i < network->port_count; i++)
        add_line(filter, IF_EQUAL, (uint32_t)network->port[i].socket,
                 network->port_count - 1 - i + more, 0);
}

/* Allows shutdown(2) for all sockets but the listening ones. */
static void add_shutdown(struct filter *filter, const struct network *network)
{
    add_line(filter, IF_EQUAL, SYS_shutdown, 0, network->port_count + 3);
    add_port_jumps(filter, network, 1);
    add_answer(filter, SECCOMP_RET_ALLOW);
    add_answer(filter, DENY);
}

/* Allows connect(2) for all sockets but the listening ones, with the address of one of the
 * structures in `inside`. */
static void add_connect(struct filter *filter, const struct network *network,
                        const struct sockaddr_in *inside)
{
    size_t ports = network->port_count;
    add_line(filter, IF_EQUAL, SYS_connect, 0, 2 * ports + 6);
    add_port_jumps(filter, network, ports + 3);
    load_upper_half(filter, 1);
    /* All are on the same page, so that their upper halves are the same. */
    add_line(filter, IF_EQUAL, (uint32_t)((uint64_t)(uintptr_t)inside >> 32), 0, ports + 1);
    load_argument(filter, 1);
    for (size_t i = 0; i < ports; i++)
        add_line(filter, IF_EQUAL, (uint32_t)(uintptr_t)&inside[i], ports - i, 0);
    add_answer(filter, DENY);
    add_answer(filter, SECCOMP_RET_ALLOW);
}

/* Allows sendto(2) without an address, as send(2) calls it. */
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

static int add_filter(const struct network *network, const struct sockaddr_in *inside)
{
    static struct filter filter;
    add_line(&filter, LOAD, offsetof(struct seccomp_data, arch), 0, 0);
    add_line(&filter, IF_EQUAL, UN_AUDIT_ARCH, 1, 0);
    add_answer(&filter, SECCOMP_RET_KILL_PROCESS);
    add_line(&filter, LOAD, offsetof(struct seccomp_data, nr), 0, 0);
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        add_line(&filter, IF_EQUAL, allowed[i], 0, 1);
        add_answer(&filter, SECCOMP_RET_ALLOW);
    }
    add_shutdown(&filter, network);
    add_connect(&filter, network, inside);
    add_send(&filter);
    add_line(&filter, IF_EQUAL, SYS_socket, 0, 3);
    load_argument(&filter, 0);
    add_line(&filter, IF_EQUAL, AF_INET, 0, 1);
    add_answer(&filter, SECCOMP_RET_ALLOW);
    add_answer(&filter, DENY);
    const struct sock_fprog program = {filter.count, filter.line};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

/* Returns the addresses of the ports inside, on a read-only page, or NULL with errno. */
static const struct sockaddr_in *make_addresses(const struct network *network)
{
    size_t size = PORTS_MAX * sizeof(struct sockaddr_in);
    struct sockaddr_in *inside =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (inside == MAP_FAILED)
        return NULL;
    for (size_t i = 0; i < network->port_count; i++)
        inside[i] = (struct sockaddr_in){.sin_family = AF_INET,
                                         .sin_port = htons(network->port[i].inside),
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return mprotect(inside, size, PROT_READ) ? NULL : inside;
}

bool drop_privileges(void)
{
    struct un_cap_sets none = {.data = {{0}}};
    return !un_caps_set(&none) && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

const struct sockaddr_in *confine_forwarder(const struct network *network, int socket,
                                            struct un_error *err)
{
    int keep[PORTS_MAX + 1];
    const struct sockaddr_in *inside = make_addresses(network);
    keep[0] = socket;
    for (size_t i = 0; i < network->port_count; i++)
        keep[i + 1] = network->port[i].socket;
    size_t count = un_sort_fds(keep, network->port_count + 1);
    /* In the new root directory no process can make a file. */
    if (inside && !un_close_fds(keep, count, err) && !chroot("/proc/self/fdinfo") && !chdir("/") &&
        drop_privileges() && !add_filter(network, inside))
        return inside;
    un_fail_errno(err, UN_STEP_NETWORK, "the restrictions of the process for published ports");
    return NULL;
}
