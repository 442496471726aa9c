/* Waiting for a command on behalf of whoever waits for us. Internal. */
#ifndef USERNSCTL_SUPERVISE_H
#define USERNSCTL_SUPERVISE_H

#include "usernsctl.h"

/*
 * Forks. In the child: returns 0, with a descriptor for the parent in *parent_pidfd. In the parent:
 * forwards signals to the child until it ends, returns its pid, and puts into *status what our own
 * exit status should be: the child's, or 128+N if signal N killed it. -1 if there is no child.
 */
pid_t un_supervise(int *parent_pidfd, int *status, struct un_error *err);

#endif
