/* What a keeper works in: its message, its stack, and that of the command that it starts. */
#ifndef USERNSCTL_PROGRAMS_AGENT_BLOCK_H
#define USERNSCTL_PROGRAMS_AGENT_BLOCK_H

#include "programs/agent/wire.h"

#include <sys/types.h>

/* What a stack is in has its size and begins at a multiple of it, with the errno of who runs there:
 * so from any place of a stack it is known whose that is (libc.c). A block has two of them. */
#define AGENT_STACK_SIZE (128 * 1024)
#define AGENT_BLOCK_SIZE (2 * AGENT_STACK_SIZE)

struct agent;

struct agent_block {
    int error; /* errno of who runs on this stack */
    pid_t keeper;
    bool has_letter;
    struct agent_block *next;
    struct agent *agent;
    struct agent_letter letter;
};

/* Those that are free, and those that somebody works in. */
struct agent_blocks {
    struct agent_block *free;
    struct agent_block *used;
};

/* One that is free, which it remains. NULL with errno. */
struct agent_block *agent_block_free(struct agent_blocks *blocks);
/* That one is used from now on. */
void agent_block_use(struct agent_blocks *blocks, pid_t keeper);
/* Its keeper has ended: NULL if it had none, or else the block, which is free. */
struct agent_block *agent_block_leave(struct agent_blocks *blocks, pid_t keeper);
/* Whether a keeper works in one. */
bool agent_block_has(const struct agent_blocks *blocks, pid_t keeper);
/* Where the keeper's stack begins, and that of the command. */
void *agent_block_stack(struct agent_block *block);
void *agent_block_command_stack(struct agent_block *block);

#endif
