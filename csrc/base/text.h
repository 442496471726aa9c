/* Comparing texts where there is no libc. Internal. */
#ifndef USERNSCTL_BASE_TEXT_H
#define USERNSCTL_BASE_TEXT_H

#include <stdbool.h>

/* Whether `text` begins with `start`. */
static inline bool un_begins(const char *text, const char *start)
{
    while (*start && *text == *start) {
        text++;
        start++;
    }
    return !*start;
}

#endif
