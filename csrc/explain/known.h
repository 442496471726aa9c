/* What a text can come from, by the messages in it that are known. Internal. */
#ifndef USERNSCTL_EXPLAIN_KNOWN_H
#define USERNSCTL_EXPLAIN_KNOWN_H

#include "include/usernsctl.h"

/* More causes than all messages have. */
#define UN_CANDIDATES_MAX 256

struct un_candidates {
    size_t count;
    const char *id[UN_CANDIDATES_MAX]; /* of causes, likeliest first */
};

/* Causes of one message that has few come before those of one that has many. */
void un_candidates_find(const char *text, struct un_candidates *found);

#endif
