/* Programs of the system's, found and asked. Internal. */
#ifndef USERNSCTL_FACTS_ASK_H
#define USERNSCTL_FACTS_ASK_H

#include "include/usernsctl.h"

#include <sys/stat.h>

/* Whether this is an executable file, and what stat(2) says of it. */
bool un_is_program(const char *path, struct stat *status);
/* Finds such a file in one of the absolute directories of `path`; false if there is none. */
bool un_find_program(const char *path, const char *name, char found[UN_PATH_MAX],
                     struct stat *status);
/* Finds such a file that may not be executed. */
bool un_find_unusable(const char *path, const char *name, char found[UN_PATH_MAX]);
/* Asks a program, found along `path`, for what only NSS knows: up to three words, which end with
 * NULL if they are fewer. Its output, cut to size - 1, or NULL. */
const char *un_ask(const char *path, const char *const words[], char *output, size_t size);

#endif
