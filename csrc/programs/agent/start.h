/* What becomes a command: a child that does what was asked for, and executes it. */
#ifndef USERNSCTL_PROGRAMS_AGENT_START_H
#define USERNSCTL_PROGRAMS_AGENT_START_H

#include "programs/agent/agent.h"
#include "programs/agent/message.h"

#include <sys/types.h>

struct agent_start {
    const struct agent *agent;
    const struct agent_message *message;
    const struct agent_words *words;
    const gid_t *groups; /* those of the message */
    int stdio[3];
    int socket;        /* to who asked for it */
    void *stack;       /* where it begins; NULL: that of the caller */
    bool has_terminal; /* they are one, which is to control the session */
    int step;          /* out: what failed, or 0 ... */
    int errnum;        /* ... and why */
};

/* Returns when it has been executed. Where that takes so long that nobody wants it any more, it is
 * killed: its own user may stop it before. Its process id; -1: there is no process, and `start`
 * says why. */
pid_t agent_start_command(struct agent_start *start);

#endif
