/* The message of a command: reading it. */
#ifndef USERNSCTL_PROGRAMS_AGENT_MESSAGE_H
#define USERNSCTL_PROGRAMS_AGENT_MESSAGE_H

#include "programs/agent/protocol.h"

#include <stdbool.h>
#include <stddef.h>

/* As many as one may have (NGROUPS_MAX), and a few more limits than there are. */
#define AGENT_GROUPS_MAX 65536
#define AGENT_LIMITS_MAX 64

struct agent_message {
    struct agent_header header;
    const char *groups; /* where they are: nothing is aligned */
    const char *limits;
    const char *words; /* what is left; with AGENT_WORDS_APART, nothing */
    size_t words_size;
};

/* What a command is made of: all of it is in the bytes of its words. */
struct agent_words {
    const char *cwd;
    const char *program; /* a path, or what is looked up */
    const char **argv;
    const char **envp;
};

/* 0, or an errno: EPROTO if it is no message of ours, E2BIG if it is too big. */
int agent_read_message(const char *bytes, size_t size, struct agent_message *message);

/* How many pointers agent_read_words() fills in. */
size_t agent_pointers(const struct agent_header *header);

/* Takes the words apart; `pointers` has room for agent_pointers(). 0, or EPROTO. */
int agent_read_words(const struct agent_header *header, const char *bytes, size_t size,
                     const char **pointers, struct agent_words *words);

void agent_read_limit(const struct agent_message *message, size_t number,
                      struct agent_limit *limit);
uint32_t agent_read_group(const struct agent_message *message, size_t number);

#endif
