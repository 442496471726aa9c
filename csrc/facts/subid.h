/* How files like /etc/subuid are read. Internal. */
#ifndef USERNSCTL_FACTS_SUBID_H
#define USERNSCTL_FACTS_SUBID_H

#include "include/usernsctl.h"

#include <stdint.h>

/* The file that grants ids of a kind (enum un_kind): that of `sources`, or the system's. */
const char *un_subid_path(const struct un_sources *sources, int kind);

/* Reads a number of up to `most` that the byte `end` follows, as those do who grant it: blanks may
 * come first, and a 0 or 0x has the meaning that it has in C (shadow's lib/atoi). Returns what
 * follows, or NULL. */
const char *un_subid_number(const char *text, char end, uint64_t most, uint64_t *number);

#endif
