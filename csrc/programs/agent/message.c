/* Parsing and validating a message that requests a command. Has no side effects. */
#include "programs/agent/agent.h"

#include <errno.h>
#include <string.h>

int agent_read_message(const char *bytes, size_t size, struct agent_message *message)
{
    struct agent_header *header = &message->header;
    if (size < sizeof *header)
        return EPROTO;
    memcpy(header, bytes, sizeof *header);
    if (header->magic != AGENT_COMMAND || header->version != AGENT_VERSION)
        return EPROTO;
    if (header->flags & ~AGENT_ALL_FLAGS)
        return EPROTO;
    size_t groups = header->groups == AGENT_UNCHANGED ? 0 : header->groups;
    if (groups > AGENT_GROUPS_MAX || header->limits > AGENT_LIMITS_MAX)
        return EPROTO;
    if (header->size > AGENT_STRINGS_MAX)
        return E2BIG;
    /* Each string has at least one byte, its NUL, so there can't be more strings than bytes. */
    if (!header->args || header->args > header->size || header->env > header->size)
        return EPROTO;
    size_t before = sizeof *header + groups * sizeof(uint32_t);
    size_t fixed = before + header->limits * sizeof(struct agent_limit);
    if (size < fixed)
        return EPROTO;
    message->groups = bytes + sizeof *header;
    message->limits = bytes + before;
    message->strings = bytes + fixed;
    message->strings_size = size - fixed;
    size_t expected = header->flags & AGENT_STRINGS_APART ? 0 : header->size;
    return message->strings_size == expected ? 0 : EPROTO;
}

size_t agent_pointers(const struct agent_header *header)
{
    return (size_t)header->args + header->env + 2;
}

/* Returns the string at *at, and advances *at past its NUL. Returns NULL if the string has no NUL
 * before `end`. */
static const char *take_string(const char **at, const char *end)
{
    const char *word = *at;
    size_t room = (size_t)(end - word);
    size_t length = strnlen(word, room);
    if (length == room)
        return NULL;
    *at = word + length + 1;
    return word;
}

static bool take_all(const char **at, const char *end, size_t count, const char **into)
{
    for (size_t i = 0; i < count; i++)
        if (!(into[i] = take_string(at, end)))
            return false;
    into[count] = NULL;
    return true;
}

int agent_read_strings(const struct agent_header *header, const char *bytes, size_t size,
                       const char **pointers, struct agent_strings *strings)
{
    const char *at = bytes, *end = bytes + size;
    strings->argv = pointers;
    strings->envp = pointers + header->args + 1;
    if (!(strings->cwd = take_string(&at, end)))
        return EPROTO;
    bool has_program = header->flags & AGENT_PROGRAM;
    if (has_program && !(strings->program = take_string(&at, end)))
        return EPROTO;
    if (!take_all(&at, end, header->args, strings->argv) ||
        !take_all(&at, end, header->env, strings->envp) || at != end)
        return EPROTO;
    if (!has_program)
        strings->program = strings->argv[0];
    return 0;
}

void agent_read_limit(const struct agent_message *message, size_t number, struct agent_limit *limit)
{
    memcpy(limit, message->limits + number * sizeof *limit, sizeof *limit);
}

uint32_t agent_read_group(const struct agent_message *message, size_t number)
{
    uint32_t group;
    memcpy(&group, message->groups + number * sizeof group, sizeof group);
    return group;
}
