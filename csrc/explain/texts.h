/* Messages and what they mean: see texts.c. Internal. */
#ifndef USERNSCTL_EXPLAIN_TEXTS_H
#define USERNSCTL_EXPLAIN_TEXTS_H

/* Lists of words, each word ended by NUL, each list by an empty word, all lists by another one. By
 * turns: the sequences that a message is known by (match.h), and the ids of what it can come from,
 * likeliest first. */
extern const char un_texts[];
/* Of those causes that un_cause_find() does not know: id, why, remedy. The last id is empty. */
extern const char un_text_causes[];

#endif
