/* What of a message is runsc's own. Internal. */
#ifndef USERNSCTL_EXPLAIN_OWN_WORDS_H
#define USERNSCTL_EXPLAIN_OWN_WORDS_H

#include <stddef.h>

/*
 * Blots out, in place, what a message of runsc's quotes of a config.json, so that nobody can have
 * it taken for another message by the name of a mount. What is a path or a word stays: it is no
 * message. Where the search takes too long, all of the message is blotted out. -1: there is no
 * memory.
 */
int un_keep_own_words(char *message, const char *config, size_t size);

#endif
