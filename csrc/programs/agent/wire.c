#include "programs/agent/agent.h"
#include "sys/sys.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Number of descriptors for which recvmsg(2) has room: one more than a message may contain, so that
 * excess descriptors are noticed. */
#define ROOM (AGENT_FDS + 1)

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(ROOM * sizeof(int))];
};

static void take_fds(struct msghdr *head, struct agent_request *request)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(head); part; part = CMSG_NXTHDR(head, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            if (request->fds < AGENT_FDS)
                request->fd[request->fds] = fd;
            else
                close(fd);
            request->fds++;
        }
    }
}

/* Returns 0 if recvmsg(2) has received the whole message, EPROTO if the message is too long or has
 * too many descriptors, or EMFILE if not all descriptors could be installed. gVisor's kernel needs
 * a descriptor on the host for each descriptor that it receives, and for each file of the host that
 * is open in the sandbox. */
static int fault_of(int flags, size_t fds)
{
    if (flags & MSG_CTRUNC && fds <= AGENT_FDS)
        return EMFILE;
    return flags & (MSG_TRUNC | MSG_CTRUNC) ? EPROTO : 0;
}

int agent_receive(int socket, struct agent_request *request)
{
    union control control;
    struct iovec part = {.iov_base = request->bytes, .iov_len = sizeof request->bytes};
    struct msghdr head = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    request->fds = 0;
    ssize_t size = recvmsg(socket, &head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0)
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    request->size = (size_t)size;
    take_fds(&head, request);
    request->fault = fault_of(head.msg_flags, request->fds);
    if (!size && !request->fds && !request->fault)
        return 0;
    if (request->fds >= AGENT_STRINGS)
        return 1;
    agent_answer_failure(socket, AGENT_STEP_STRINGS, request->fault ? request->fault : EPROTO);
    agent_close_fds(request);
    return -1;
}

void agent_close_fds(struct agent_request *request)
{
    un_close_each(request->fd, request->fds < AGENT_FDS ? request->fds : AGENT_FDS);
}

static bool is_unwanted(int socket)
{
    struct agent_note note = {.kind = 0};
    ssize_t size = recv(socket, &note, sizeof note, MSG_PEEK | MSG_DONTWAIT);
    if (size < 0)
        return errno != EAGAIN && errno != EINTR;
    return !size || (note.kind == AGENT_SIGNAL && note.value == SIGKILL);
}

bool agent_wait_while_wanted(const struct agent_wait *wait)
{
    /* Request only POLLIN, because gVisor reports end of file on a host socket as POLLIN. */
    struct pollfd polls[] = {
        {.fd = wait->fd, .events = POLLIN},
        {.fd = wait->socket, .events = POLLIN},
        {.fd = wait->other, .events = POLLIN},
    };
    for (;;) {
        if (ppoll(polls, 3, NULL, NULL) < 0)
            continue;
        if (polls[0].revents)
            return true;
        if (polls[1].revents && is_unwanted(wait->socket))
            return false;
        /* Stop polling the socket: the pending message does not request SIGKILL, and is read
         * later. */
        if (polls[1].revents)
            polls[1].fd = -1;
        if (polls[2].revents) {
            polls[2].fd = -1;
            wait->notify(wait->arg);
        }
    }
}

bool agent_answer(int socket, const void *data, size_t size)
{
    return send(socket, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
}

bool agent_answer_failure(int socket, int step, int errnum)
{
    const struct agent_failure failure = {
        .note = {.kind = AGENT_FAILED, .value = errnum},
        .step = (uint32_t)step,
    };
    return agent_answer(socket, &failure, sizeof failure);
}
