/* Waiting for a command on behalf of whoever waits for us. Internal. */
#ifndef USERNSCTL_SYS_SUPERVISE_H
#define USERNSCTL_SYS_SUPERVISE_H

#include "sys/pass_on.h"

/* How a command is waited for. Unset: NULL, false or 0. */
struct un_supervision {
    un_pass_on *pass_on;
    void *arg;         /* of pass_on */
    bool has_init;     /* put un_be_init() between us and the child: a new PID namespace waits for
                        * its first process */
    int init_deathsig; /* the signal that process 1 gets when we die */
    int parent_pidfd;  /* out, in the child: of us; -1 below process 1, with which the child dies */
    int wait_status;   /* out, in the parent: how the child ended, as waitpid(2) gives it */
};

/*
 * Forks. Returns 0 in the child. In the parent: passes signals on to the child until it ends, as
 * un_pass_on_until_end() says, and returns its pid, or that of process 1. -1 if there is no child;
 * with has_init also in a process 1 that could start none.
 *
 * A child in the foreground of our terminal may leave that in any mode. Where standard input and
 * output are the terminal, and nobody else is in its foreground, it gets back the mode that it had.
 */
pid_t un_supervise(struct un_supervision *how, struct un_error *err);

#endif
