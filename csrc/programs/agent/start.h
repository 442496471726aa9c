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
    bool has_terminal; /* they are one, which is to control the session */
    int step;          /* out: what failed, or 0 ... */
    int errnum;        /* ... and why */
};

/* Its process id; -1: there is no process, and `start` says why. */
pid_t agent_start_command(struct agent_start *start);

#endif
