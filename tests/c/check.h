/* Checks for the C tests. A check that fails prints its file and line, and exits with status 1. */
#ifndef CHECK_H
#define CHECK_H

#include "include/usernsctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) check_true((condition), __FILE__, __LINE__, #condition)
#define CHECK_INT(got, want) check_int((got), (want), __FILE__, __LINE__, #got)
#define CHECK_TEXT(got, want) check_text((got), (want), __FILE__, __LINE__, #got)
/* Checks that `text` contains `part`. */
#define CHECK_HAS(text, part) check_has((text), (part), __FILE__, __LINE__, #text)
/* Checks that a call, which fills in `err` on failure, returns 0. Otherwise prints the error. */
#define CHECK_OK(call, err) check_ok((call), (err), __FILE__, __LINE__, #call)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static inline void check_true(bool passed, const char *file, int line, const char *what)
{
    if (passed)
        return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    exit(1);
}

static inline void check_int(long long got, long long want, const char *file, int line,
                             const char *what)
{
    if (got == want)
        return;
    fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, got, want);
    exit(1);
}

static inline void check_text(const char *got, const char *want, const char *file, int line,
                              const char *what)
{
    if (got && !strcmp(got, want))
        return;
    fprintf(stderr, "%s:%d: %s is \"%s\", not \"%s\"\n", file, line, what, got ? got : "NULL",
            want);
    exit(1);
}

static inline void check_has(const char *text, const char *part, const char *file, int line,
                             const char *what)
{
    if (text && strstr(text, part))
        return;
    fprintf(stderr, "%s:%d: %s is \"%s\", which does not contain \"%s\"\n", file, line, what,
            text ? text : "NULL", part);
    exit(1);
}

static inline void check_ok(int result, const struct un_error *err, const char *file, int line,
                            const char *what)
{
    char reason[UN_DETAIL_MAX + 128];
    if (result == 0)
        return;
    fprintf(stderr, "%s:%d: %s: %s: %s\n", file, line, what, un_step_name(err->step),
            un_error_reason(err, reason, sizeof reason));
    exit(1);
}

#endif
