/* Messages over a socket, with descriptors. Internal. */
#ifndef USERNSCTL_SYS_MESSAGE_H
#define USERNSCTL_SYS_MESSAGE_H

#include "include/usernsctl.h"

/* The most descriptors that one carries: a directory in /proc, and all namespaces. */
#define UN_MESSAGE_FDS (1 + UN_NS_COUNT)

/* Sends `size` bytes with `count` descriptors. False with errno: it was not sent as a whole.
 * Async-signal-safe. */
bool un_send(int socket, const void *data, size_t size, const int *fds, size_t count);

#endif
