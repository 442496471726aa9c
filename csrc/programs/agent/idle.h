/* Keepers that have nothing to keep: one of them listens for the next command, which so costs no
 * new process, and the others wait to take its place. Where none listens, the agent does. */
#ifndef USERNSCTL_PROGRAMS_AGENT_IDLE_H
#define USERNSCTL_PROGRAMS_AGENT_IDLE_H

#include "programs/agent/block.h"

/* What tells a keeper that it listens now, and the agent that nobody does. */
#define AGENT_TURN_SIGNAL SIGUSR2

/* So many wait at most. */
#define AGENT_WAITING_MAX 3

/* In memory that all share who use it: each field is changed at once. */
struct agent_idle {
    struct agent_block *listener;
    struct agent_block *waiting[AGENT_WAITING_MAX];
};

/* The keeper of `block` listens or waits from now on. False: there are enough. */
bool agent_idle_join(struct agent_idle *idle, struct agent_block *block);
bool agent_idle_listens(const struct agent_idle *idle, const struct agent_block *block);
/* The one that listened has a command, or has nothing to say here any more: another one listens, or
 * `agent` is told that nobody does. */
void agent_idle_pass_on(struct agent_idle *idle, struct agent_block *block, pid_t agent);
/* For the agent: the keeper of `block` has ended. */
void agent_idle_forget(struct agent_idle *idle, struct agent_block *block);
/* Whether somebody listens. */
bool agent_idle_any(const struct agent_idle *idle);

#endif
