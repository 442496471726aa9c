/* Who keeps a command: starts it, tells the host how it goes, does what the host says, and is there
 * as long as anything is left of it. */
#ifndef USERNSCTL_PROGRAMS_AGENT_KEEPER_H
#define USERNSCTL_PROGRAMS_AGENT_KEEPER_H

#include "programs/agent/agent.h"
#include "programs/agent/block.h"

/* Runs in a child of the agent, which may share its memory; the end of that is the end of this. It
 * keeps the command that it has a letter of, and then, where keepers are used again, others. */
int agent_keep(struct agent_block *block);

#endif
