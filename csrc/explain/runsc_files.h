/* What runsc has written about itself, and what of that can be trusted. Internal. */
#ifndef USERNSCTL_EXPLAIN_RUNSC_FILES_H
#define USERNSCTL_EXPLAIN_RUNSC_FILES_H

#include "explain/messages.h"

#include <stdbool.h>

/*
 * The debug logs have text in them of whoever made the bundle, and of the command, so that nothing
 * is looked for in those. These three are runsc's own words: the errors that its processes end of
 * (--log, as JSON), the line that Go's report of a crash begins with (--panic-log), and whether
 * the last line of its own debug log is the status that it ends with.
 * usernsctl/gvisor/runsc/logs.py has the same rule for Python.
 */
struct un_runsc_words {
    bool has_ended;              /* runsc came to its end, and the sandbox to its own */
    const char *told;            /* what it failed of; NULL: it does not say */
    struct un_messages messages; /* all errors, the first one first */
    char *crash;                 /* the line of the report, or NULL */
};

/* Returns whether runsc's own log says that it came to its end, and so that the status is the
 * command's: *wait_status, as waitpid(2) gives it. */
bool un_runsc_has_ended(const char *debug, int *wait_status);
/* Reads the beginning of the files, and the end of the log; a file that is missing says nothing.
 * `debug` may have %COMMAND% in it. -1: there is no memory. */
int un_runsc_words_read(const char *errors, const char *crash, const char *debug,
                        struct un_runsc_words *words);
void un_runsc_words_free(struct un_runsc_words *words);

#endif
