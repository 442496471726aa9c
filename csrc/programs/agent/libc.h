/* What the agent's libc is told. */
#ifndef USERNSCTL_PROGRAMS_AGENT_LIBC_H
#define USERNSCTL_PROGRAMS_AGENT_LIBC_H

/* To be called by the first process, before it makes those that share its memory: each of them has
 * an errno of its own, in the block that its stack is in. */
void agent_split_errno(void);

#endif
