/* Explaining failures by their causes. Internal. */
#ifndef USERNSCTL_EXPLAIN_H
#define USERNSCTL_EXPLAIN_H

#include "include/usernsctl.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- texts.c: messages and causes, generated from the catalogue by texts.py ------------------ */

/* The messages of the catalogue, as lists of strings. Each string is terminated by NUL, each list
 * by an empty string, and the last list by a further empty string. A message has two lists: the
 * sequences that recognise the message (match.c), and the ids of its causes, likeliest first. */
extern const char un_texts[];
/* The hints of the catalogue, in the same form as un_texts. A hint is a text that is not a message
 * of a failure, but shows from which system a text comes. */
extern const char un_text_hints[];
/* The causes of the catalogue, as lists of strings in the form of un_texts. Each cause has a list
 * with its id, explanation and remedy. */
extern const char un_text_causes[];

static inline const char *un_texts_next(const char *word)
{
    return word + strlen(word) + 1;
}

/* Returns the position after the end of a list of strings. */
static inline const char *un_texts_next_list(const char *list)
{
    while (*list)
        list = un_texts_next(list);
    return list + 1;
}

/* ---- match.c: matching sequences against text ------------------------------------------------ */

/*
 * A sequence is a regular expression without alternatives, in a form that needs no compilation. All
 * characters match themselves, except in these two constructs:
 *
 * \1SET\1LEAST,MOST;  from LEAST to MOST characters of SET, which lists characters and ranges such
 * as a-z; if SET begins with ^, characters outside of SET
 * \2SEQUENCE\3        no match of SEQUENCE follows (negative lookahead)
 *
 * explain/texts.py writes the sequences. A malformed sequence never matches. The text may be any
 * bytes.
 */

/* Returns the beginning of the first match of a sequence in a text, or NULL if there is no match.
 * Takes time proportional to the size of the text times the product of the repetition limits in the
 * sequence. */
const char *un_match(const char *sequence, const char *text, size_t size);
/* Returns whether a sequence matches at the beginning of a text. */
bool un_match_start(const char *sequence, const char *text, size_t size);

/* A sequence that matches the end of the text. */
#define UN_MATCH_END "\2\1^\0011,1;\3"

/* ---- search.c: finding the messages of the catalogue in a text ------------------------------- */

/* Searches a text as un_search_add() does, but ignores hints and ids of causes, which occur in the
 * output of runsc only as quotations. */
void un_search_add_messages(struct un_search *search, const char *text, size_t size);

/* ---- quotations.c: removing quotations of config.json from a message of runsc ---------------- */

/*
 * Replaces quotations of config.json in a message of runsc by dots, in place, so that a search
 * can't mistake, for example, the name of a mount for a message of runsc. Single paths and words
 * are not replaced, because no message of the catalogue is that short. If the search takes too
 * long, the entire message is replaced. Returns 0, or -1 if memory is exhausted.
 */
int un_remove_quotations(char *message, const char *config, size_t size);

/* ---- runsc_files.c: the last line of runsc's debug log --------------------------------------- */

/* Returns whether runsc's own log shows that runsc exited normally, so that its exit status is the
 * command's. Stores the wait status of the command, as of waitpid(2), in *wait_status. The path
 * `debug` may contain runsc's placeholder %COMMAND%. */
bool un_runsc_has_ended(const char *debug, int *wait_status);

/* ---- diagnose.c: causes that several steps share --------------------------------------------- */

/* Returns the cause for which the owner of a file in `proc` can't open the file (EACCES): a
 * security module that confines this process, or the helper that writes the file. Returns NULL if
 * no cause is certain. */
const char *un_cause_of_closed_proc(const char *proc);

/* The detail of an error with UN_STEP_CLONE if a descriptor could not be copied or sent. */
#define UN_CHILD_DESCRIPTOR "a descriptor for usernsctl-child"

/* ---- cgroup.c: failures to start a child in a control group ---------------------------------- */

/* Explains `err`, the error of a clone3(2) into the cgroup whose directory is open as `dir`. If the
 * cgroup is the reason for the error, adds the cause and the path of the cgroup to `err`. */
void un_explain_cgroup(struct un_error *err, int dir);

/* ---- limits.c: counters of exceeded limits of the control group ------------------------------ */

enum un_limit {
    UN_LIMIT_MEMORY, /* number of processes killed by the OOM killer */
    UN_LIMIT_PIDS,   /* number of fork(2) calls that failed because of pids.max */
    UN_LIMIT_COUNT
};

/* Opens the file that counts how often the control group of this process has exceeded a limit.
 * *version becomes 1 or 2, or 0 if the file counts the OOM kills of the entire machine. The kernel
 * reports changes of a version 2 file by POLLPRI, until the file is read again. Returns a
 * descriptor, or -1. */
int un_limit_open(enum un_limit limit, int *version);
/* Returns the count in a file that un_limit_open() has opened, or 0 if it can't be read. */
uint64_t un_limit_count(enum un_limit limit, int fd);

/* Returns how often the control group of this process, of version 1 or 2 (cgroups(7)), has exceeded
 * a limit, or 0 if the counter can't be read. */
uint64_t un_limit_hits(enum un_limit limit);

/* Returns how many more processes and threads the control group of this process allows, or
 * UINT64_MAX if that is unknown or unlimited. */
uint64_t un_pids_left(void);

/* Returns the id of the cause of failures at this limit, for un_cause_find(). */
const char *un_limit_cause(enum un_limit limit);

#endif
