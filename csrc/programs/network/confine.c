/*
 * The restrictions of the process that forwards connections of published ports. Clients outside and
 * programs inside send bytes to that process.
 *
 * The listening sockets belong to the network namespace of this machine. A process that can call
 * connect(2) for such a socket could reach this machine: connect(2) to AF_UNSPEC ends the listening
 * (tcp_disconnect() in net/ipv4/tcp.c), and a second connect(2) then opens a connection. So the
 * filter denies connect(2) and shutdown(2) for these sockets.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "sys/sys.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Room for the instructions of the filter: two for each call and for each port. */
#define FILTER_MAX 512
#define LOAD (BPF_LD | BPF_W | BPF_ABS)
#define IF_EQUAL (BPF_JMP | BPF_JEQ | BPF_K)
#define IF_SET (BPF_JMP | BPF_JSET | BPF_K)
#define RETURN (BPF_RET | BPF_K)
#define DENY (SECCOMP_RET_ERRNO | EPERM)

/* The calls that are allowed with all arguments. malloc(3) makes some of them. */
static const uint32_t allowed[] = {
    SYS_accept4, SYS_brk,   SYS_close, SYS_exit_group,   SYS_getsockopt, SYS_madvise,
    SYS_munmap,  SYS_ppoll, SYS_read,  SYS_rt_sigreturn, SYS_sendto,     SYS_restart_syscall,
#ifdef SYS_poll
    SYS_poll,
#endif
};
/* The calls that are denied for the listening sockets. */
static const uint32_t denied_for_ports[] = {SYS_connect, SYS_shutdown};
/* The calls that are denied with PROT_EXEC as the third argument. */
static const uint32_t mapping[] = {SYS_mmap, SYS_mprotect};

#define COUNT(array) (sizeof(array) / sizeof *(array))

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

static void load_argument(struct filter *filter, size_t index)
{
    /* Both architectures are little-endian, so the lower half of an argument comes first. */
    size_t offset = offsetof(struct seccomp_data, args) + index * sizeof(uint64_t);
    add_line(filter, LOAD, (uint32_t)offset, 0, 0);
}

static void add_port_calls(struct filter *filter, const struct network *network)
{
    for (size_t i = 0; i < COUNT(denied_for_ports); i++) {
        add_line(filter, IF_EQUAL, denied_for_ports[i], 0, network->port_count + 3);
        load_argument(filter, 0);
        for (size_t port = 0; port < network->port_count; port++)
            add_line(filter, IF_EQUAL, (uint32_t)network->port[port].socket,
                     network->port_count - port, 0);
        add_answer(filter, SECCOMP_RET_ALLOW);
        add_answer(filter, DENY);
    }
}

static int add_filter(const struct network *network)
{
    static struct filter filter;
    add_line(&filter, LOAD, offsetof(struct seccomp_data, arch), 0, 0);
    add_line(&filter, IF_EQUAL, UN_AUDIT_ARCH, 1, 0);
    add_answer(&filter, SECCOMP_RET_KILL_PROCESS);
    add_line(&filter, LOAD, offsetof(struct seccomp_data, nr), 0, 0);
    for (size_t i = 0; i < COUNT(allowed); i++) {
        add_line(&filter, IF_EQUAL, allowed[i], 0, 1);
        add_answer(&filter, SECCOMP_RET_ALLOW);
    }
    add_port_calls(&filter, network);
    for (size_t i = 0; i < COUNT(mapping); i++) {
        add_line(&filter, IF_EQUAL, mapping[i], 0, 4);
        load_argument(&filter, 2);
        add_line(&filter, IF_SET, PROT_EXEC, 1, 0);
        add_answer(&filter, SECCOMP_RET_ALLOW);
        add_answer(&filter, DENY);
    }
    add_line(&filter, IF_EQUAL, SYS_socket, 0, 3);
    load_argument(&filter, 0);
    add_line(&filter, IF_EQUAL, AF_INET, 0, 1);
    add_answer(&filter, SECCOMP_RET_ALLOW);
    add_answer(&filter, DENY);
    const struct sock_fprog program = {filter.count, filter.line};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

int confine_forwarder(const struct network *network)
{
    int keep[PORTS_MAX];
    struct un_error err;
    struct un_cap_sets none = {.data = {{0}}};
    for (size_t i = 0; i < network->port_count; i++)
        keep[i] = network->port[i].socket;
    size_t count = un_sort_fds(keep, network->port_count);
    /* In the new root directory no process can make a file. */
    return un_close_fds(keep, count, &err) || chroot("/proc/self/fdinfo") || chdir("/") ||
           un_caps_set(&none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || add_filter(network);
}
