/* Text from others, made fit for a terminal. Internal. */
#ifndef USERNSCTL_BASE_PRINTABLE_H
#define USERNSCTL_BASE_PRINTABLE_H

/* Makes one line of `text`, in place, in which nothing speaks to a terminal: white space becomes a
 * space, and each other control character, invisible or bidirectional formatting character and byte
 * that is not UTF-8 becomes a question mark. usernsctl/_text.py has the same rule for Python. */
void un_make_printable(char *text);

#endif
