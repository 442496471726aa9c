/* Fuzz target: if any bytes are parsed as the message that requests a command, all resulting
 * pointers point into the message. */
#include "programs/agent/agent.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t lengths(const char *const *strings)
{
    size_t all = 0;
    for (; *strings; strings++)
        all += strlen(*strings) + 1;
    return all;
}

/* All values that are read go into this sum, so that the compiler keeps the reads. */
static volatile uint64_t seen;

static void use(const struct agent_loaded *loaded)
{
    const struct agent_message *message = &loaded->message;
    const struct agent_strings *strings = &loaded->strings;
    size_t all = strlen(strings->cwd) + 1 + lengths(strings->argv) + lengths(strings->envp);
    if (message->header.flags & AGENT_PROGRAM)
        all += strlen(strings->program) + 1;
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
    /* The buffer ends with the message, so that AddressSanitizer detects reads past its end. */
    struct agent_request *request = malloc(offsetof(struct agent_request, bytes) + size);
    static struct agent_loaded loaded;
    request->size = size;
    request->fds = AGENT_STRINGS;
    request->fault = 0;
    memcpy(request->bytes, data, size);
    const struct agent_wait wait = {.socket = -1, .other = -1};
    if (!agent_load(request, &wait, &loaded))
        use(&loaded);
    agent_unload(&loaded);
    free(request);
    return 0;
}
