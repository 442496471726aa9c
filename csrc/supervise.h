/* Waiting for a command on behalf of whoever waits for us. Internal. */
#ifndef USERNSCTL_SUPERVISE_H
#define USERNSCTL_SUPERVISE_H

#include "usernsctl.h"

#include <signal.h>

/* Passes a signal that we got on to the child. */
typedef void un_pass_on(pid_t child, const siginfo_t *info, void *arg);

/* By kill(2), unless it comes from the terminal: that sends to the whole foreground group, so the
 * child has it already. */
un_pass_on un_pass_on_by_kill;

/*
 * Forks. In the child: returns 0, with a descriptor for the parent in *parent_pidfd. In the parent:
 * passes signals on to the child until it ends, returns its pid, and puts into *status what our own
 * exit status should be: the child's, or 128+N if signal N killed it. -1 if there is no child.
 */
pid_t un_supervise(un_pass_on *pass_on, void *arg, int *parent_pidfd, int *status,
                   struct un_error *err);

#endif
