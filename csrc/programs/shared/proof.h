/* Whether the kernel is gVisor's: it is asked itself, so that neither a mounted /proc nor a file
 * can lie about it. */
#ifndef USERNSCTL_PROGRAMS_SHARED_PROOF_H
#define USERNSCTL_PROGRAMS_SHARED_PROOF_H

#include <stdbool.h>

/* What is said if it is not. */
#define UN_NOT_PROVEN                                                                              \
    "not started: this kernel is not gVisor's (its build and its boot message are missing), so "   \
    "what was called as runsc did not make a sandbox"

bool un_runs_on_gvisor(void);

#endif
