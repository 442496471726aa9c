/* Whether a text has a sequence of characters in it. Internal. */
#ifndef USERNSCTL_EXPLAIN_MATCH_H
#define USERNSCTL_EXPLAIN_MATCH_H

#include <stdbool.h>

/*
 * A sequence is a regular expression without choices, in a form that takes no compiling. Characters
 * stand for themselves, but for three:
 *
 * \1SET\1LEAST,MOST;  from LEAST to MOST characters of SET, which has characters and ranges such as
 *                     a-z; of all others if SET begins with ^
 * \2SEQUENCE\3        SEQUENCE does not come next
 *
 * explain/texts.py writes them. One that is malformed is in no text.
 */
bool un_match(const char *sequence, const char *text);
/* The same, of a text that begins with it. */
bool un_match_start(const char *sequence, const char *text);

/* In a sequence: the end of the text. */
#define UN_MATCH_END "\2\1^\0011,1;\3"

#endif
