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
    int fault; /* an errno if it was longer than `bytes`, or descriptors were lost; or else 0 */
    char bytes[AGENT_MESSAGE_MAX];
};

/* Takes one message without waiting. 1: there was one, with what belongs to a command; 0: the host
 * has closed its end; -1: there is none yet. One without a socket of the command's is answered. */
int agent_receive(int socket, struct agent_letter *letter);

struct agent_wait {
    int fd;     /* for what can be read here, or for its end */
    int socket; /* of the command that this is for; -1: it is waited for in any case */
    int other;  /* if there is something here, `tell` is told so, once; or -1 */
    void (*tell)(void *arg);
    void *arg;
};

/* False: before that, the host has let go of `socket`, or has asked for the end of the command. */
bool agent_wait_while_wanted(const struct agent_wait *wait);

void agent_close_fds(struct agent_letter *letter);

/* The host reads or does not: nobody waits for it. False: it was not sent. */
bool agent_answer(int socket, const void *data, size_t size);
bool agent_answer_failure(int socket, int step, int errnum);

#endif
