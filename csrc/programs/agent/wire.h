/* Sockets of the host's: what comes with descriptors, and answers. */
#ifndef USERNSCTL_PROGRAMS_AGENT_WIRE_H
#define USERNSCTL_PROGRAMS_AGENT_WIRE_H

#include "programs/agent/protocol.h"

#include <stdbool.h>
#include <stddef.h>

/* A command's message, as it came. */
struct agent_letter {
    size_t size;
    size_t fds; /* how many came; more than AGENT_FDS if too many did, and those are closed */
    int fd[AGENT_FDS];
    bool cut; /* it was longer than `bytes`, or descriptors were lost */
    char bytes[AGENT_MESSAGE_MAX];
};

/* Takes one message without waiting. 1: there was one, with what belongs to a command; 0: the host
 * has closed its end; -1: there is none yet. One without a socket of the command's is answered. */
int agent_receive(int socket, struct agent_letter *letter);

/* Waits until `fd` can be read, or has come to its end. False: before that, the host has let go of
 * `socket`, which is a command's, or has asked for the end of the command. */
bool agent_wait_while_wanted(int fd, int socket);

void agent_close_fds(struct agent_letter *letter);

/* The host reads or does not: nobody waits for it. False: it was not sent. */
bool agent_answer(int socket, const void *data, size_t size);
bool agent_answer_failure(int socket, int step, int errnum);

#endif
