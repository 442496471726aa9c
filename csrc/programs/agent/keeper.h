/* Who keeps a command: starts it, tells the host how it goes, does what the host says, and is there
 * as long as anything is left of it. */
#ifndef USERNSCTL_PROGRAMS_AGENT_KEEPER_H
#define USERNSCTL_PROGRAMS_AGENT_KEEPER_H

#include "programs/agent/wire.h"

#include <sys/types.h>

/* What all keepers get of the agent. */
struct agent {
    pid_t pid;
    int control; /* from the host; its end is the end of all */
    int proc;    /* see agent_open_proc() */
};

/* Runs in a child of the agent, a copy of it; the end of that is the end of this. */
int agent_keep(const struct agent *agent, struct agent_letter *letter);

#endif
