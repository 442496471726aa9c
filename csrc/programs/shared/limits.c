#include "base/base.h"
#include "programs/shared/shared.h"

static const struct {
    const char *name;
    size_t offset;
} fields[] = {
    {"memory=", offsetof(struct un_limits, memory)},
    {"pids=", offsetof(struct un_limits, pids)},
    {"disk=", offsetof(struct un_limits, disk)},
    {"processors=", offsetof(struct un_limits, processors)},
    {"timeout=", offsetof(struct un_limits, timeout)},
    {"idle=", offsetof(struct un_limits, idle)},
    {"quota=", offsetof(struct un_limits, quota)},
    {"groups=", offsetof(struct un_limits, groups)},
};

/* Parses NAME=NUMBER at the beginning of `text`. Returns a pointer to the byte after the number, or
 * NULL if the field is malformed. */
static const char *parse_field(const char *text, struct un_limits *limits)
{
    uint64_t number;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (!un_begins(text, fields[i].name))
            continue;
        const char *end = un_number_read(text + strlen(fields[i].name), INT64_MAX, &number);
        if (end)
            memcpy((char *)limits + fields[i].offset, &number, sizeof number);
        return end;
    }
    return NULL;
}

bool limits_parse(const char *text, struct un_limits *limits)
{
    *limits = (struct un_limits){.memory = 0};
    if (!*text)
        return true;
    for (;;) {
        text = parse_field(text, limits);
        if (!text || !*text)
            return text;
        if (*text++ != ',')
            return false;
    }
}
