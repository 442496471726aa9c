/* Running small programs side by side and reading what they say. Internal. */
#ifndef USERNSCTL_SYS_JOBS_H
#define USERNSCTL_SYS_JOBS_H

#include "include/usernsctl.h"

struct un_job {
    const char *const *argv; /* argv[0] is a path */
    char *output;            /* where the first output_size - 1 bytes go that it writes */
    size_t output_size;
    /* Out: */
    int ended;      /* how: CLD_EXITED, CLD_KILLED, CLD_DUMPED; 0: that is not to be known */
    int status;     /* its exit status, or the signal */
    bool timed_out; /* it was killed since it took too long ... */
    int stopped_by; /* ... or since this signal had stopped it */
    /* While it runs: */
    int pidfd; /* -1: it has ended */
    int pipe;
    size_t length;
};

/* Runs all of them at the same time. 0: all have ended; how is in each of them. -1: one could not
 * be started, and none is left. */
int un_run_jobs(struct un_job *jobs, size_t count, int timeout_ms, struct un_error *err);

#endif
