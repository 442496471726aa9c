/* Programs of the system's, found and asked. Internal. */
#ifndef USERNSCTL_FACTS_ASK_H
#define USERNSCTL_FACTS_ASK_H

#include "include/usernsctl.h"

/* Finds an executable file in one of the absolute directories of `path`; false if there is none. */
bool un_find_program(const char *path, const char *name, char found[UN_PATH_MAX]);
/* Asks a program, found along `path`, for what only NSS knows: up to three words, which end with
 * NULL if they are fewer. Its output, cut to size - 1, or NULL. */
const char *un_ask(const char *path, const char *const words[], char *output, size_t size);

#endif
