#include "programs/agent/agent.h"

#include <stdint.h>
#include <sys/mman.h>

/* Size of the memory from one mmap(2), in blocks. The memory holds one block less, because blocks
 * must be aligned. */
#define CHUNK 8

static void add_free(struct agent_blocks *blocks, struct agent_block *block)
{
    block->next = blocks->free;
    blocks->free = block;
}

struct agent_block *agent_block_free(struct agent_blocks *blocks)
{
    if (blocks->free)
        return blocks->free;
    char *chunk = mmap(NULL, CHUNK * AGENT_BLOCK_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED)
        return NULL;
    char *first = chunk + AGENT_BLOCK_SIZE - (uintptr_t)chunk % AGENT_BLOCK_SIZE;
    for (size_t i = CHUNK - 1; i-- > 0;)
        add_free(blocks, (struct agent_block *)(void *)(first + i * AGENT_BLOCK_SIZE));
    return blocks->free;
}

void agent_block_use(struct agent_blocks *blocks, pid_t keeper)
{
    struct agent_block *block = blocks->free;
    blocks->free = block->next;
    block->keeper = keeper;
    block->next = blocks->used;
    blocks->used = block;
}

struct agent_block *agent_block_leave(struct agent_blocks *blocks, pid_t keeper)
{
    for (struct agent_block **at = &blocks->used; *at; at = &(*at)->next) {
        struct agent_block *block = *at;
        if (block->keeper != keeper)
            continue;
        *at = block->next;
        /* Insert the block at the head of the list, so that the next keeper reuses the most
         * recently used memory. */
        add_free(blocks, block);
        return block;
    }
    return NULL;
}

bool agent_block_has(const struct agent_blocks *blocks, pid_t keeper)
{
    for (const struct agent_block *block = blocks->used; block; block = block->next)
        if (block->keeper == keeper)
            return true;
    return false;
}

void *agent_block_stack(struct agent_block *block)
{
    return (char *)block + AGENT_STACK_SIZE;
}

void *agent_block_command_stack(struct agent_block *block)
{
    return (char *)block + AGENT_BLOCK_SIZE;
}
