/* Who the caller is, and which ids he may have. Internal. */
#ifndef USERNSCTL_FACTS_H
#define USERNSCTL_FACTS_H

#include "base/base.h"

#include <sys/stat.h>

/* ---- ask.c: programs of the system's, found and asked ---------------------------------------- */

/* Returns whether this is an executable file, and what stat(2) says of it. */
bool un_is_program(const char *path, struct stat *status);
/* Finds such a file in one of the absolute directories of `path`; false if there is none. */
bool un_find_program(const char *path, const char *name, char found[UN_PATH_MAX],
                     struct stat *status);
/* Finds such a file that may not be executed. */
bool un_find_unusable(const char *path, const char *name, char found[UN_PATH_MAX]);
/* Asks a program, found along `path`, for what only NSS knows: up to three words, which end with
 * NULL if they are fewer. Its output, cut to size - 1, or NULL. */
const char *un_ask(const char *path, const char *const words[], char *output, size_t size);

/* ---- subid.c: how files like /etc/subuid are read -------------------------------------------- */

/* Returns the file that grants ids of a kind (enum un_kind): that of `sources`, or the system's. */
const char *un_subid_path(const struct un_sources *sources, int kind);

/* Reads a number of up to `most` that the byte `end` follows, as those do who grant it: blanks may
 * come first, and a 0 or 0x has the meaning that it has in C (shadow's lib/atoi). Returns what
 * follows, or NULL. */
const char *un_subid_number(const char *text, char end, uint64_t most, uint64_t *number);

/* ---- user.c: a user's line in the user database ---------------------------------------------- */

/* Finds the line of passwd(5) of a uid: in the file `passwd`, or by getent(1) along `path`. What is
 * at its end may be cut. Returns false if there is none. */
bool un_user_line(const char *passwd, const char *path, uint32_t uid, char line[UN_LINE_MAX]);

#endif
