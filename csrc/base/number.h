/* Decimal numbers, where nothing but digits may be, or where there is no libc. Internal. */
#ifndef USERNSCTL_BASE_NUMBER_H
#define USERNSCTL_BASE_NUMBER_H

#include <stdint.h>

/* Reads decimal digits up to the first byte that is none. Returns what follows them; NULL: there
 * is none, or the number is more than `most`. Async-signal-safe. */
const char *un_number_read(const char *text, uint64_t most, uint64_t *number);

/* Writes a number of at most 20 digits, ends it with NUL, and returns where that is.
 * Async-signal-safe. */
char *un_number_write(char *to, uint64_t number);

#endif
