/* What a keeper works in: its message, and its stack. */
#ifndef USERNSCTL_PROGRAMS_AGENT_BLOCK_H
#define USERNSCTL_PROGRAMS_AGENT_BLOCK_H

#include "programs/agent/wire.h"

#include <sys/types.h>

/* What has its size and begins at a multiple of it: so from any place of a stack it is known whose
 * that is (libc.c). */
#define AGENT_BLOCK_SIZE (128 * 1024)

struct agent;

struct agent_block {
    int error; /* errno of who runs on this stack */
    pid_t keeper;
    struct agent_block *next;
    const struct agent *agent;
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
/* Its keeper has ended. False: it had none. */
bool agent_block_leave(struct agent_blocks *blocks, pid_t keeper);
/* Whether a keeper works in one. */
bool agent_block_has(const struct agent_blocks *blocks, pid_t keeper);
void *agent_block_stack(struct agent_block *block);

#endif
