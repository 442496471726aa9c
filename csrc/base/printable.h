/* Text from others, made fit for a terminal. Internal. */
#ifndef USERNSCTL_BASE_PRINTABLE_H
#define USERNSCTL_BASE_PRINTABLE_H

/* Makes one line of `text`, in place, in which nothing speaks to a terminal: white space becomes a
 * space, and each other control character, invisible or bidirectional formatting character and byte
 * that is not UTF-8 becomes a question mark. usernsctl/_text.py has the same rule for Python. */
void un_make_printable(char *text);

/* So many characters of somebody else's words are quoted. */
#define UN_QUOTED_MAX 300
/* The room for that: each may become ten bytes; and three dots, two quotation marks, a NUL. */
#define UN_QUOTED_ROOM (UN_QUOTED_MAX * 10 + 6)

/* Writes somebody else's words in quotation marks that they can't end, in one line in which nothing
 * speaks to a terminal: what does is written as an escape. quoted() in usernsctl/explain/logs.py
 * has the same rule. */
void un_quote(const char *text, char quoted[UN_QUOTED_ROOM]);

#endif
