/* All of a command's message, wherever its words are. */
#ifndef USERNSCTL_PROGRAMS_AGENT_WORDS_H
#define USERNSCTL_PROGRAMS_AGENT_WORDS_H

#include "programs/agent/message.h"
#include "programs/agent/wire.h"

#include <sys/types.h>

struct agent_loaded {
    struct agent_message message;
    struct agent_words words;
    gid_t *groups;
};

/* 0, or an errno. The memory is the process's, to its end. Words that come through a pipe are
 * waited for, until the command's socket or `control` ends. */
int agent_load(const struct agent_letter *letter, int control, struct agent_loaded *loaded);

#endif
