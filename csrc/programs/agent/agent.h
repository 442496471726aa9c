/* What all who keep commands know of the agent. */
#ifndef USERNSCTL_PROGRAMS_AGENT_AGENT_H
#define USERNSCTL_PROGRAMS_AGENT_AGENT_H

#include "programs/agent/caps.h"

#include <signal.h>
#include <sys/types.h>

/* What a keeper tells the agent that can't end what it keeps: agent_kill_while_all_stands(). */
#define AGENT_HELP_SIGNAL SIGUSR1

struct agent_idle;

struct agent {
    pid_t pid;
    bool is_inside; /* all that runs here may be stopped: it is in a sandbox */
    int control;    /* from the host; its end is the end of all */
    int proc;       /* see agent_open_proc() */
    uid_t uid;      /* what a command has that is to have no ids of its own */
    struct agent_caps caps;
    struct agent_idle *idle; /* NULL: each keeper has one command */
};

#endif
