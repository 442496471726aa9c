/* Fuzz target: parsing a command's message of any bytes yields only pointers into the message. */
#include "programs/agent/agent.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t lengths(const char *const *words)
{
    size_t all = 0;
    for (; *words; words++)
        all += strlen(*words) + 1;
    return all;
}

/* Accumulates all values that were read, so that the compiler keeps the reads. */
static volatile uint64_t seen;

static void use(const struct agent_loaded *loaded)
{
    const struct agent_message *message = &loaded->message;
    const struct agent_words *words = &loaded->words;
    size_t all = strlen(words->cwd) + 1 + lengths(words->argv) + lengths(words->envp);
    if (message->header.flags & AGENT_PROGRAM)
        all += strlen(words->program) + 1;
    if (all != message->header.size)
        abort();
    for (uint32_t i = 0; i < message->header.limits; i++) {
        struct agent_limit limit;
        agent_read_limit(message, i, &limit);
        seen = limit.soft ^ limit.hard;
    }
    if (message->header.groups != AGENT_UNCHANGED)
        for (uint32_t i = 0; i < message->header.groups; i++)
            seen = loaded->groups[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* A buffer that ends with the message, so that AddressSanitizer detects reads beyond the
     * end. */
    struct agent_letter *letter = malloc(offsetof(struct agent_letter, bytes) + size);
    static struct agent_loaded loaded;
    letter->size = size;
    letter->fds = AGENT_WORDS;
    letter->fault = 0;
    memcpy(letter->bytes, data, size);
    const struct agent_wait wait = {.socket = -1, .other = -1};
    if (!agent_load(letter, &wait, &loaded))
        use(&loaded);
    agent_unload(&loaded);
    free(letter);
    return 0;
}
