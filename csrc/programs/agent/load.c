#include "programs/agent/agent.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Indexes in loaded->memory of the mappings for the strings from the pipe, for the command's
 * supplementary groups, and for the pointers to strings. */
enum { APART, GROUPS, POINTERS };

static void *allocate(struct agent_loaded *loaded, int what, size_t size)
{
    size += !size;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    loaded->memory[what].at = at;
    loaded->memory[what].size = size;
    return at;
}

void agent_unload(struct agent_loaded *loaded)
{
    for (size_t i = 0; i < sizeof loaded->memory / sizeof *loaded->memory; i++)
        if (loaded->memory[i].at)
            munmap(loaded->memory[i].at, loaded->memory[i].size);
}

static int read_apart(const struct agent_request *request, const struct agent_wait *how, char *into,
                      size_t size)
{
    int fd = request->fd[AGENT_STRINGS];
    struct agent_wait wait = *how;
    wait.fd = fd;
    for (size_t at = 0; at < size;) {
        if (!agent_wait_while_wanted(&wait))
            return ECANCELED;
        ssize_t part = read(fd, into + at, size - at);
        if (!part)
            return EPROTO;
        if (part < 0 && errno != EAGAIN && errno != EINTR)
            return errno;
        at += part > 0 ? (size_t)part : 0;
    }
    close(fd);
    return 0;
}

static int load_groups(struct agent_loaded *loaded)
{
    const struct agent_message *message = &loaded->message;
    uint32_t count = message->header.groups;
    if (count == AGENT_UNCHANGED || !count)
        return 0;
    loaded->groups = allocate(loaded, GROUPS, count * sizeof *loaded->groups);
    if (!loaded->groups)
        return ENOMEM;
    for (uint32_t i = 0; i < count; i++)
        loaded->groups[i] = agent_read_group(message, i);
    return 0;
}

static int load_strings(const struct agent_request *request, const struct agent_wait *wait,
                        struct agent_loaded *loaded)
{
    const struct agent_header *header = &loaded->message.header;
    const char *bytes = loaded->message.strings;
    if (header->flags & AGENT_STRINGS_APART) {
        char *apart = allocate(loaded, APART, header->size);
        if (!apart)
            return ENOMEM;
        int errnum = read_apart(request, wait, apart, header->size);
        if (errnum)
            return errnum;
        bytes = apart;
    }
    size_t count = agent_pointers(header);
    const char **pointers = loaded->pointers;
    if (count > AGENT_POINTERS_MIN)
        pointers = allocate(loaded, POINTERS, count * sizeof *pointers);
    if (!pointers)
        return ENOMEM;
    return agent_read_strings(header, bytes, header->size, pointers, &loaded->strings);
}

int agent_load(const struct agent_request *request, const struct agent_wait *wait,
               struct agent_loaded *loaded)
{
    memset(loaded->memory, 0, sizeof loaded->memory);
    loaded->groups = NULL;
    int errnum = agent_read_message(request->bytes, request->size, &loaded->message);
    if (errnum)
        return errnum;
    bool apart = loaded->message.header.flags & AGENT_STRINGS_APART;
    if (request->fault)
        return request->fault;
    if (request->fds != (apart ? AGENT_FDS : AGENT_STRINGS))
        return EPROTO;
    errnum = load_groups(loaded);
    return errnum ? errnum : load_strings(request, wait, loaded);
}
