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

static void serve_one_client(int listener, struct sockaddr_in *address)
{
    char byte = 0;
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(client >= 0);
    CHECK_INT(connect(client, (struct sockaddr *)address, sizeof *address), 0);
    int served = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct pollfd polled = {.fd = served, .events = POLLIN};
    CHECK(served >= 0);
    CHECK_INT(send(client, "x", 1, MSG_NOSIGNAL), 1);
    CHECK_INT(poll(&polled, 1, 1000), 1);
    CHECK_INT(read(served, &byte, 1), 1);
    CHECK_INT(byte, 'x');
    CHECK_INT(shutdown(served, SHUT_WR), 0);
    close(served);
    close(client);
    /* What malloc(3) does. */
    char *memory = malloc(1 << 22);
    CHECK(memory);
    memset(memory, 1, 1 << 22);
    free(memory);
}

/* Confines this process as the owner of one port or of many. */
static int only_forwards(void *arg)
{
    static struct network network;
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
    int other = open("/dev/null", O_RDONLY);
    /* Only in a user namespace may an unprivileged process call chroot(2). */
    if (unshare(CLONE_NEWUSER) && geteuid())
        return 0;
    CHECK_INT(confine_forwarder(&network), 0);
    CHECK_INT(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), -1);
    CHECK_INT(read(other, &size, 1), -1);
    CHECK_INT(errno, EBADF);
    serve_one_client(listener, &address);
    /* A listening socket must not become another socket of this machine. */
    for (size_t i = 0; i < network.port_count; i++) {
        CHECK_DENIED(connect(network.port[i].socket, &unspecific, sizeof unspecific));
        CHECK_DENIED(shutdown(network.port[i].socket, SHUT_RDWR));
    }
    CHECK_DENIED(dup(listener));
    CHECK_DENIED(open("/dev/null", O_RDONLY));
    CHECK_DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK_DENIED(socket(AF_NETLINK, SOCK_RAW, 0));
    CHECK_DENIED(fork());
    CHECK_DENIED(unshare(CLONE_NEWUSER));
    CHECK_DENIED(setns(0, 0));
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
          MAP_FAILED);
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
