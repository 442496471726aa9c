/* Finding the causes of failures, and the explanations of these causes. Internal. The catalogue
 * consists of known error messages (explain/messages/) and of causes
 * (src/usernsctl/explain/causes/). */
#ifndef USERNSCTL_EXPLAIN_H
#define USERNSCTL_EXPLAIN_H

#include "include/usernsctl.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- texts.c: error messages and their causes, which texts.py generates from the catalogue --- */

/* The known error messages of the catalogue, as lists of strings. NUL ends a string, an empty
 * string ends a list, and another empty string ends the table. A message has two lists: the
 * patterns that recognize it (match.c), and the ids of its causes, likeliest first. */
extern const char un_texts[];
/* The hints of the catalogue, in the same format as un_texts. A hint is a message that does not
 * report a failure, but shows which system has written the searched text. */
extern const char un_text_hints[];
/* The causes of the catalogue, in the same format as un_texts, except that each cause has only one
 * list: its id, explanation and remedy. */
extern const char un_text_causes[];

static inline const char *un_texts_next(const char *word)
{
    return word + strlen(word) + 1;
}

/* Returns a pointer to the list that follows `list` in a table such as un_texts. */
static inline const char *un_texts_next_list(const char *list)
{
    while (*list)
        list = un_texts_next(list);
    return list + 1;
}

/* ---- match.c: matching patterns against text ------------------------------------------------- */

/*
 * A pattern is a regular expression without alternatives, in a form that needs no compilation.
 * Every character matches itself, except in two constructs:
 *
 * \1SET\1LEAST,MOST;  matches LEAST to MOST characters of SET. SET lists characters and ranges such
 *                     as a-z; if it begins with ^, it lists the characters that do not match.
 * \2PATTERN\3         matches where PATTERN does not (negative lookahead).
 *
 * explain/texts.py writes the patterns. A malformed pattern never matches. The searched text may
 * contain any bytes.
 */

/* Returns the beginning of the first match of `pattern` in the first `size` bytes of `text`, or
 * NULL if nothing matches. The time is proportional to `size` and to the product of the repetition
 * limits in the pattern. */
const char *un_match(const char *pattern, const char *text, size_t size);
/* Returns whether `pattern` matches at the beginning of the first `size` bytes of `text`. */
bool un_match_start(const char *pattern, const char *text, size_t size);

/* A pattern that matches only at the end of the searched text. */
#define UN_MATCH_END "\2\1^\0011,1;\3"

/* ---- search.c: finding the messages of the catalogue in a text ------------------------------- */

/* Searches the first `size` bytes of `text`, an output of runsc, as un_search_add() does, but only
 * for error messages: runsc's output contains hints and ids of causes only in quotations of other
 * text, where they prove nothing. */
void un_search_add_messages(struct un_search *search, const char *text, size_t size);

/* ---- quotations.c: removing quotations of config.json from a message of runsc ---------------- */

/*
 * Replaces by dots, in place, each part of a message of runsc that quotes config.json. Otherwise a
 * search could mistake, for example, the name of a mount for a message of runsc. Single words and
 * paths remain, because no message of the catalogue consists of only one of them. If the search
 * would take too long, the whole message is replaced. Returns 0, or -1 if memory is exhausted.
 */
int un_remove_quotations(char *message, const char *config, size_t size);

/* ---- runsc_files.c: reading the command's status from runsc's debug log ---------------------- */

/* Returns whether runsc's debug log shows a normal exit of runsc. After a normal exit, runsc's exit
 * status is that of the command. Stores the wait status of the command (waitpid(2)) in
 * *wait_status. The path `debug` may contain runsc's placeholder %COMMAND%. */
bool un_runsc_has_ended(const char *debug, int *wait_status);

/* Returns whether the filesystem of runsc's debug log has no space left. */
bool un_runsc_log_is_full(const char *debug);

/* ---- diagnose.c: determining the cause of an errno by facts about the host ------------------- */

/* Determines which security module denies (EACCES) the owner of a file in `proc` access to the
 * file. The module confines this process and the programs that it runs. Returns the id of the cause
 * for this module, or NULL if no module is certain. */
const char *un_cause_of_closed_proc(const char *proc);

/* The detail of an error with UN_STEP_CLONE if the child could not duplicate or send a
 * descriptor. */
#define UN_CHILD_DESCRIPTOR "can't duplicate or send a descriptor for usernsctl-child"

/* ---- cgroup.c: explaining failures to start a child in a cgroup ------------------------------ */

/* Explains `err`, the error of a failed clone3(2) with CLONE_INTO_CGROUP. `dir` is a descriptor of
 * the cgroup's directory. If the error is due to the cgroup, adds the cause and the cgroup's path
 * to `err`. */
void un_explain_cgroup(struct un_error *err, int dir);

/* ---- limits.c: how often this process's control group has reached its limits ----------------- */

enum un_limit {
    UN_LIMIT_MEMORY, /* memory limit; its count is the number of processes that the OOM killer has
                        killed */
    UN_LIMIT_PIDS, /* pids.max; its count is the number of fork(2) calls that failed because of this
                      limit */
    UN_LIMIT_COUNT
};

/* Opens the file of this process's control group that counts how often `limit` was reached.
 * *version becomes the version of the control group, or 0 if the file counts the OOM kills of the
 * whole host. After a change of a version 2 file, poll(2) reports POLLPRI until the file is read
 * again. Returns a descriptor, or -1. */
int un_limit_open(enum un_limit limit, int *version);
/* Returns the count in a file that un_limit_open() has opened, or 0 if the count can't be read. */
uint64_t un_limit_count(enum un_limit limit, int fd);

/* Returns how often this process's control group, of version 1 or 2 (cgroups(7)), has reached a
 * limit, or 0 if the count can't be read. */
uint64_t un_limit_hits(enum un_limit limit);

/* Returns how many more processes and threads this process's control group allows, or UINT64_MAX if
 * there is no limit or the limit can't be read. */
uint64_t un_pids_left(void);

/* Returns the id of the cause (struct un_cause) of failures due to `limit`. */
const char *un_limit_cause(enum un_limit limit);

#endif
