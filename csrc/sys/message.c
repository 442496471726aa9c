#include "sys/sys.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* Maximum number of attempts, one per millisecond, while sendmsg(2) fails with ETOOMANYREFS. All
 * processes of a user share the limit of descriptors in flight (unix(7)), so an attempt may succeed
 * after other processes have received their descriptors. */
#define TRIES_MAX 1000

bool un_send(int socket, const void *data, size_t size, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(UN_MESSAGE_FDS * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr letter = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control, 0, sizeof control);
    if (count) {
        control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
        letter.msg_control = &control;
        letter.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    ssize_t sent;
    int tries = 0;
    while ((sent = sendmsg(socket, &letter, MSG_NOSIGNAL)) < 0) {
        if (errno == ETOOMANYREFS && ++tries < TRIES_MAX)
            poll(NULL, 0, 1);
        else if (errno != EINTR)
            break;
    }
    return sent == (ssize_t)size;
}

/* Moves the descriptors in a received message to `fds`. Returns their number. */
static size_t take_fds(struct msghdr *letter, int fds[UN_MESSAGE_FDS])
{
    size_t count = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(letter); part; part = CMSG_NXTHDR(letter, part)) {
        size_t size = part->cmsg_len - CMSG_LEN(0);
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        memcpy(fds, CMSG_DATA(part), size);
        count = size / sizeof(int);
    }
    return count;
}

ssize_t un_receive(int socket, void *data, size_t size, int *fds, size_t count, size_t *got)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(UN_MESSAGE_FDS * sizeof(int))];
    } control;
    int received[UN_MESSAGE_FDS];
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr letter = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    ssize_t length;
    *got = 0;
    while ((length = recvmsg(socket, &letter, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        continue;
    if (length <= 0)
        return length;
    size_t found = take_fds(&letter, received);
    if ((found && found != count) || letter.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        un_close_each(received, found);
        errno = EBADMSG;
        return -1;
    }
    memcpy(fds, received, found * sizeof *fds);
    *got = found;
    return length;
}
