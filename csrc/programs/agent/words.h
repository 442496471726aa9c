/* All of a command's message, wherever its words are. */
#ifndef USERNSCTL_PROGRAMS_AGENT_WORDS_H
#define USERNSCTL_PROGRAMS_AGENT_WORDS_H

#include "programs/agent/message.h"
#include "programs/agent/wire.h"

#include <sys/types.h>

/* So many words need no memory of their own. */
#define AGENT_FEW 512

struct agent_loaded {
    struct agent_message message;
    struct agent_words words;
    gid_t *groups;
    const char *few[AGENT_FEW];
    /* What is not in here or in the message itself, to be given back. */
    struct {
        void *at;
        size_t size;
    } memory[3];
};

/* 0, or an errno; in any case there is something to unload. Words that come through a pipe are
 * waited for, until the command's socket ends. */
int agent_load(const struct agent_letter *letter, struct agent_loaded *loaded);
void agent_unload(struct agent_loaded *loaded);

#endif
