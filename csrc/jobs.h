/* Running small programs side by side and reading what they say. Internal. */
#ifndef USERNSCTL_JOBS_H
#define USERNSCTL_JOBS_H

#include "usernsctl.h"

struct un_job {
    const char *const *argv; /* argv[0] is a path */
    int keep_fd;             /* a descriptor that it gets, or -1 */
    char *output;            /* where the first output_size - 1 bytes go that it writes */
    size_t output_size;
    /* Out: */
    int status;     /* as waitpid(2) gives it */
    bool timed_out; /* it was killed since it took too long ... */
    int stopped_by; /* ... or since this signal had stopped it */
    /* While it runs: */
    pid_t pid;
    int pidfd; /* -1: it has ended */
    int pipe;
    size_t length;
};

/* Runs all of them at the same time. 0: all have ended; how is in each of them. -1: one could not
 * be started, and none is left. */
int un_run_jobs(struct un_job *jobs, size_t count, int timeout_ms, struct un_error *err);

#endif
