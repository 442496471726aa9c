/* What a program has written as JSON objects that follow each other, one for each message.
 * Internal. */
#ifndef USERNSCTL_EXPLAIN_MESSAGES_H
#define USERNSCTL_EXPLAIN_MESSAGES_H

#include <stddef.h>

/* Texts, each ended by NUL, one after the other. */
struct un_messages {
    char *bytes;
    size_t size;  /* of all of them */
    size_t count; /* how many there are */
};

/* Takes the member "msg" of each object in a text up to the first that is malformed; those that
 * have none, or an empty one, do not count. A character that no text can have becomes U+FFFD. -1:
 * there is no memory. */
int un_messages_read(const char *text, size_t size, struct un_messages *messages);
void un_messages_free(struct un_messages *messages);

#endif
