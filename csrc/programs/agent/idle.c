/* Choosing the listener, the keeper (process that runs commands) that receives the message for the
 * next command. A keeper may be killed at any time, so this code uses no locks, and changes each
 * field by a single atomic operation. Whenever a keeper has exited, the agent checks whether a
 * listener remains. If not, the agent itself waits for messages. Two listeners at a time do no
 * harm, because only one of them receives each message. */
#include "programs/agent/agent.h"

#include <signal.h>

#define SET(place, from, to)                                                                       \
    __atomic_compare_exchange_n(place, &(struct agent_block *){from}, to, false, __ATOMIC_SEQ_CST, \
                                __ATOMIC_SEQ_CST)

bool agent_idle_join(struct agent_idle *idle, struct agent_block *block)
{
    if (SET(&idle->listener, NULL, block))
        return true;
    for (int i = 0; i < AGENT_WAITING_MAX; i++)
        if (SET(&idle->waiting[i], NULL, block))
            return true;
    return false;
}

bool agent_idle_any(const struct agent_idle *idle)
{
    return __atomic_load_n(&idle->listener, __ATOMIC_SEQ_CST);
}

bool agent_idle_listens(const struct agent_idle *idle, const struct agent_block *block)
{
    return __atomic_load_n(&idle->listener, __ATOMIC_SEQ_CST) == block;
}

void agent_idle_pass_on(struct agent_idle *idle, struct agent_block *block, pid_t agent)
{
    for (int i = 0; i < AGENT_WAITING_MAX; i++) {
        struct agent_block *next = __atomic_exchange_n(&idle->waiting[i], NULL, __ATOMIC_SEQ_CST);
        if (!next || next == block)
            continue;
        if (!SET(&idle->listener, block, next))
            return;
        if (!kill(next->keeper, AGENT_LISTEN_SIGNAL))
            return;
        /* If kill(2) fails, the keeper of `next` was killed and reaped, so try another keeper. */
        block = next;
    }
    if (SET(&idle->listener, block, NULL))
        kill(agent, AGENT_LISTEN_SIGNAL);
}

void agent_idle_forget(struct agent_idle *idle, struct agent_block *block)
{
    SET(&idle->listener, block, NULL);
    for (int i = 0; i < AGENT_WAITING_MAX; i++)
        SET(&idle->waiting[i], block, NULL);
}
