/* How the C files record a failure. Internal: callers of the library only read struct un_error. */
#ifndef USERNSCTL_BASE_ERROR_H
#define USERNSCTL_BASE_ERROR_H

#include "include/usernsctl.h"

/* Fills in `err`, the detail by printf's rules, and returns -1. Not async-signal-safe. */
int un_fail(struct un_error *err, enum un_step step, int errnum, const char *cause,
            const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The same with errno, a detail that is copied as it is, and no cause. Async-signal-safe. */
int un_fail_errno(struct un_error *err, enum un_step step, const char *detail);

/* Returns what glibc's strerror() returns, in every libc: musl has other words for some, and users
 * look for a message by its words. */
const char *un_errno_text(int errnum);

#endif
