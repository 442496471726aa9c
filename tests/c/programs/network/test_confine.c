/* Tests of the restrictions of the process that forwards connections of published ports. */
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

/* main.c, which a test can't be linked with, has this function. */
int compare_fds(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

#define CHECK_DENIED(call)                                                                         \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHECK_INT((call), -1);                                                                     \
        CHECK_INT(errno, EPERM);                                                                   \
    } while (0)

/* Tries to make another socket of this machine from one that serves a client. `inside` is the last
 * of the allowed addresses. */
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
    /* A socket that serves a client stays connected. */
    CHECK_INT(connect(served, (const struct sockaddr *)inside, sizeof *inside), -1);
    CHECK_INT(errno, EISCONN);
}

/* Serves a client, which connects to the port inside: the test's own listening socket. */
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

/* Tries to change the addresses of the ports inside, or to replace their page. */
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
    /* The kernel does not write to the page, either. */
    CHECK_INT(syscall(SYS_read, readable, page, 1), -1);
    CHECK_INT(errno, EFAULT);
    CHECK_INT(syscall(SYS_getsockopt, readable, SOL_SOCKET, SO_TYPE, page, &size), -1);
    CHECK_INT(errno, EFAULT);
}

/* Confines this process as the owner of one port or of many. */
static int only_forwards(void *arg)
{
    static struct network network;
    struct un_error err;
    int report[2];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr unspecific = {.sa_family = AF_UNSPEC};
    socklen_t size = sizeof address;
    network.port_count = *(const size_t *)arg;
    for (size_t i = 0; i < network.port_count; i++) {
        network.port[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(network.port[i].socket >= 0);
    }
    int listener = network.port[network.port_count - 1].socket;
    CHECK_INT(bind(listener, (struct sockaddr *)&address, size), 0);
    CHECK_INT(listen(listener, 1), 0);
    CHECK_INT(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    network.port[network.port_count - 1].inside = ntohs(address.sin_port);
    CHECK_INT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, report), 0);
    CHECK_INT(send(report[1], "x", 1, 0), 1);
    int other = open("/dev/null", O_RDONLY);
    /* Only in a user namespace may an unprivileged process call chroot(2). */
    if (unshare(CLONE_NEWUSER) && geteuid())
        return 0;
    const struct sockaddr_in *inside = confine_forwarder(&network, report[0], &err);
    CHECK(inside);
    CHECK_INT(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), -1);
    CHECK_INT(read(other, &size, 1), -1);
    CHECK_INT(errno, EBADF);
    check_page(inside, report[0]);
    CHECK_INT(close(report[0]), 0);
    serve_one_client(listener, &inside[network.port_count - 1]);
    /* A listening socket must not become another socket of this machine. */
    for (size_t i = 0; i < network.port_count; i++) {
        CHECK_DENIED(connect(network.port[i].socket, &unspecific, sizeof unspecific));
        CHECK_DENIED(connect(network.port[i].socket, (const struct sockaddr *)&inside[i], size));
        CHECK_DENIED(shutdown(network.port[i].socket, SHUT_RDWR));
    }
    CHECK_DENIED(dup(listener));
    CHECK_DENIED(open("/dev/null", O_RDONLY));
    CHECK_DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_DENIED(socket(AF_NETLINK, SOCK_RAW, 0));
    CHECK_DENIED(fork());
    CHECK_DENIED(unshare(CLONE_NEWUSER));
    CHECK_DENIED(setns(0, 0));
    /* A sanitizer makes other calls when the process exits. */
    return (int)syscall(SYS_exit_group, 0);
}

int main(void)
{
    static size_t counts[] = {1, 2, PORTS_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        CHECK_INT(forked(only_forwards, &counts[i]), 0);
    return 0;
}
