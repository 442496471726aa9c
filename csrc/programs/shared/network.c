/*
 * Joining a sandbox's network namespace, which usernsctl-network creates (csrc/programs/network/).
 *
 * usernsctl-network is PID 1 of a PID namespace. When it exits, even if SIGKILL kills it, the
 * kernel kills pasta and all other processes of the network.
 */
#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* Capabilities that are needed only to create the network. */
#define ONLY_NETWORK                                                                               \
    (UINT64_C(1) << CAP_NET_ADMIN | UINT64_C(1) << CAP_NET_RAW | UINT64_C(1) << CAP_SETPCAP)

/* Timeout in ms for starting usernsctl-network. Only a bug can exceed it, because usernsctl-network
 * has a timeout for each of its helpers. */
#define READY_MS 30000

struct keeper {
    char **argv;
    /* pidfd of the process that starts usernsctl-network, and the socket for the report */
    int fds[2];
};

/* Executes usernsctl-network, in a child of the process that joins the network. */
static int become_keeper(void *arg)
{
    static char *const nothing[] = {NULL};
    const struct keeper *keeper = arg;
    struct un_error err;
    un_set_signals(0);
    /* Create a session, so that a signal to the caller's process group, such as that of Ctrl-C,
     * does not end the network. setsid(2) can't fail, because a new process does not lead a process
     * group. */
    setsid();
    /* Ignore a failure: if one of these descriptors is closed, usernsctl-network exits without a
     * report, and the parent notices that. */
    for (int i = 0; i < 2; i++)
        fcntl(keeper->fds[i], F_SETFD, 0);
    /* Give usernsctl-network and its helpers an empty environment. */
    execve(keeper->argv[0], keeper->argv, nothing);
    un_fail_errno(&err, UN_STEP_NETWORK, keeper->argv[0]);
    return error_send(keeper->fds[1], &err);
}

/* Waits for the report of usernsctl-network. Stores a descriptor of the network namespace in
 * *namespace. Returns 0, or -1 with the error in `err`. */
static int wait_for_report(int socket, int *namespace, struct un_error *err)
{
    char text[ERROR_FIELDS_MAX];
    size_t count = 0;
    ssize_t length = 0;
    if (un_wait_readable(socket, READY_MS) > 0)
        length = un_receive(socket, text, sizeof text, namespace, 1, &count);
    if (count)
        return 0;
    if (length > 0 && error_parse(text, (size_t)length, err))
        return -1;
    return un_fail(err, UN_STEP_NETWORK, 0, NULL, "usernsctl-network ended without a report");
}

/* Drops the capabilities ONLY_NETWORK from this process and, through the bounding set, from its
 * future children. Leaves a bounding set that already lacks CAP_NET_ADMIN unchanged. Returns 0, or
 * -1 with the error in `err`. */
static int drop_capabilities(struct un_error *err)
{
    struct un_cap_sets sets;
    if (prctl(PR_CAPBSET_READ, CAP_NET_ADMIN, 0, 0, 0) == 1 && un_caps_drop_bounding(ONLY_NETWORK))
        return un_fail_errno(err, UN_STEP_CAPABILITIES,
                             "can't drop capabilities from the bounding set");
    if (un_caps_get(&sets))
        return un_fail_errno(err, UN_STEP_CAPABILITIES, "capget");
    sets.data[0].effective &= ~(uint32_t)ONLY_NETWORK;
    sets.data[0].permitted &= ~(uint32_t)ONLY_NETWORK;
    sets.data[0].inheritable &= ~(uint32_t)ONLY_NETWORK;
    return un_caps_set(&sets) ? un_fail_errno(err, UN_STEP_CAPABILITIES, "capset") : 0;
}

/* Starts usernsctl-network, and joins the network namespace that it creates. `words` contains the
 * path of usernsctl-network and its options, `count` strings in total. Stores a pidfd of
 * usernsctl-network in *keeper_pidfd. Returns 0, or -1 with the error in `err`. */
static int join_network(char **words, size_t count, int *keeper_pidfd, struct un_error *err)
{
    char numbers[2][12];
    int ends[2], namespace = -1;
    un_auto_free char **argv = calloc(count + 3, sizeof *argv);
    un_auto_close int self = un_pidfd_open(getpid());
    if (!argv || self < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return un_fail_errno(err, UN_STEP_NETWORK, "can't start usernsctl-network");
    snprintf(numbers[0], sizeof numbers[0], "%d", self);
    snprintf(numbers[1], sizeof numbers[1], "%d", ends[1]);
    argv[0] = words[0];
    argv[1] = numbers[0];
    argv[2] = numbers[1];
    memcpy(argv + 3, words + 1, (count - 1) * sizeof *argv);
    struct keeper keeper = {.argv = argv, .fds = {self, ends[1]}};
    struct un_clone clone = {.flags = CLONE_NEWPID | CLONE_PIDFD,
                             .exit_signal = SIGCHLD,
                             .run = become_keeper,
                             .arg = &keeper};
    int failed = un_clone(&clone);
    if (failed)
        un_fail_errno(err, UN_STEP_CLONE, "can't start usernsctl-network");
    close(ends[1]);
    failed = failed || wait_for_report(ends[0], &namespace, err);
    close(ends[0]);
    if (!failed && setns(namespace, CLONE_NEWNET))
        failed =
            un_fail_errno(err, UN_STEP_SETNS, "can't join the network namespace of the sandbox");
    un_close_quietly(namespace);
    *keeper_pidfd = failed ? -1 : clone.pidfd;
    if (failed && clone.pid > 0)
        un_kill_and_reap(clone.pidfd, &(siginfo_t){0});
    return failed ? -1 : drop_capabilities(err);
}

/* Closes the descriptors that are named in the options UN_LISTEN and UN_ACCEPT, because only
 * usernsctl-network needs them. */
static void close_passed_sockets(char **words, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        bool has_fd = un_begins(words[i], UN_LISTEN) || un_begins(words[i], UN_ACCEPT);
        const char *fd = has_fd ? strchr(words[i], ':') : NULL;
        if (fd)
            close(atoi(fd + 1));
    }
}

void network_describe_end(struct un_end *end)
{
    *end = (struct un_end){.reason = "network-ended"};
    snprintf(end->text, sizeof end->text,
             "the sandbox was ended: a process of its network has ended");
}

int network_join(char ***argv, int *keeper_pidfd, struct un_error *err)
{
    char **words = *argv;
    size_t count = 0;
    *keeper_pidfd = -1;
    if (!*words || strcmp(*words, UN_NETWORK) != 0)
        return 0;
    for (words++; words[count] && strcmp(words[count], "--") != 0;)
        count++;
    if (!count || !words[count] || !words[count + 1])
        return un_fail(err, UN_STEP_NETWORK, 0, NULL, "\"--\" is missing after " UN_NETWORK);
    *argv = words + count + 1;
    int failed = join_network(words, count, keeper_pidfd, err);
    close_passed_sockets(words, count);
    return failed;
}
