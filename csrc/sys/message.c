#include "sys/sys.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

/* Maximum number of attempts, one per millisecond, while sendmsg(2) fails with ETOOMANYREFS: the
 * limit of descriptors in flight counts those of all processes of the user (unix(7)). */
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
