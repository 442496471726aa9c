/* Messages and causes: texts.py makes texts.c of the catalogue. Internal. */
#ifndef USERNSCTL_EXPLAIN_TEXTS_H
#define USERNSCTL_EXPLAIN_TEXTS_H

/* Lists of words, each word ended by NUL, each list by an empty word, all lists by another one. By
 * turns: the sequences that a message is known by (match.h), and the ids of what it can come from,
 * likeliest first. */
extern const char un_texts[];
/* Lists of the same form, one for each cause: its id, why, and the remedy. */
extern const char un_text_causes[];

#endif
