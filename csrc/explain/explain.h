/* Causes of failures. Internal. */
#ifndef USERNSCTL_EXPLAIN_H
#define USERNSCTL_EXPLAIN_H

#include "include/usernsctl.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- texts.c: messages and causes, which texts.py makes of the catalogue --------------------- */

/* Lists of words, each word ended by NUL, each list by an empty word, all lists by another one. By
 * turns: the sequences that recognise a message (match.c), and the ids of its causes, likeliest
 * first. */
extern const char un_texts[];
/* The same for hints, which are no failures, but show which system a text comes from. */
extern const char un_text_hints[];
/* Lists of the same form, one for each cause: its id, why, and the remedy. */
extern const char un_text_causes[];

static inline const char *un_texts_next(const char *word)
{
    return word + strlen(word) + 1;
}

/* Returns what follows a list. */
static inline const char *un_texts_next_list(const char *list)
{
    while (*list)
        list = un_texts_next(list);
    return list + 1;
}

/* ---- match.c: sequences of characters, and where a text has one ------------------------------ */

/*
 * A sequence is a regular expression without choices, in a form that takes no compiling. Characters
 * stand for themselves, but for three:
 *
 * \1SET\1LEAST,MOST;  from LEAST to MOST characters of SET, which has characters and ranges such as
 *                     a-z; of all others if SET begins with ^
 * \2SEQUENCE\3        SEQUENCE does not come next
 *
 * explain/texts.py writes the sequences. No text has a malformed sequence. A text may be any bytes.
 */

/* Returns where the first match of a sequence begins, or NULL. The time grows with the size of the
 * text, times the product of the limits in the sequence. */
const char *un_match(const char *sequence, const char *text, size_t size);
/* Returns whether a text begins with a sequence. */
bool un_match_start(const char *sequence, const char *text, size_t size);

/* In a sequence: the end of the text. */
#define UN_MATCH_END "\2\1^\0011,1;\3"

/* ---- search.c: the messages of the catalogue that a text has --------------------------------- */

/* Adds what un_search_add() adds, except hints and ids of causes: these can only be quotations in
 * what runsc says. */
void un_search_add_messages(struct un_search *search, const char *text, size_t size);

/* ---- own_words.c: a message of runsc without quotations of config.json ----------------------- */

/*
 * Blots out, in place, what a message of runsc quotes of config.json, so that the name of a mount,
 * say, can't be taken for another message. Single paths and words stay, since no message is that
 * short. If the search takes too long, all of the message is blotted out. Returns -1 on ENOMEM.
 */
int un_keep_own_words(char *message, const char *config, size_t size);

/* ---- runsc_files.c: the end of runsc's debug log --------------------------------------------- */

/* Returns whether runsc's own log says that it came to its end, and so that the status is the
 * command's: *wait_status, as waitpid(2) gives it. `debug` may have %COMMAND% in it. */
bool un_runsc_has_ended(const char *debug, int *wait_status);

/* ---- diagnose.c: causes that several places name --------------------------------------------- */

/* Returns the cause of EACCES for the owner of a file in `proc`: the security module that confines
 * this process, or the helper that writes the file. NULL: none is known. */
const char *un_cause_of_closed_proc(const char *proc);

/* ---- cgroup.c: why a child could not be started in a control group --------------------------- */

/* Adds the cause and the path to `err`, the error of a clone3(2) into the cgroup whose directory is
 * open as `dir`, if the cgroup is the reason. */
void un_explain_cgroup(struct un_error *err, int dir);

/* ---- limits.c: how often a limit of our control group was hit -------------------------------- */

enum un_limit {
    UN_LIMIT_MEMORY, /* a process was killed because memory ran out */
    UN_LIMIT_PIDS,   /* fork(2) failed because of pids.max */
    UN_LIMIT_COUNT
};

/* Returns how often our control group, of version 1 or 2 (cgroups(7)), has hit this limit; 0 if the
 * kernel does not tell. */
uint64_t un_limit_hits(enum un_limit limit);

/* Returns the id of the cause of failures by this limit (un_cause_find). */
const char *un_limit_cause(enum un_limit limit);

#endif
