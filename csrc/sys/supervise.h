/* Waiting for a command on behalf of whoever waits for us. Internal. */
#ifndef USERNSCTL_SYS_SUPERVISE_H
#define USERNSCTL_SYS_SUPERVISE_H

#include "include/usernsctl.h"

#include <signal.h>

/* Passes a signal that we got on to the child, which can't have been waited for yet. */
typedef void un_pass_on(pid_t child, const siginfo_t *info, void *arg);

/*
 * By kill(2), unless the child has it already: what the kernel sends to our process group reaches
 * the child too while it is in that group. These are SIGINT, SIGQUIT, SIGTSTP and SIGWINCH from the
 * terminal; SIGTTIN and SIGTTOU, for touching it from the background; and SIGHUP and SIGCONT when
 * the leader of our session ends, or our group is orphaned. But a terminal that hangs up sends
 * SIGHUP and SIGCONT to the leader of the session alone: where that is us, they are passed on. So
 * is all else of the kernel's, such as the SIGALRM of alarm(2): it is for one process only.
 */
un_pass_on un_pass_on_by_kill;

/*
 * Forks. In the child: returns 0, with a descriptor for the parent in *parent_pidfd. In the parent:
 * passes signals on to the child until it ends, returns its pid, and puts into *status what our own
 * exit status should be: the child's, or 128+N if signal N killed it. -1 if there is no child.
 *
 * Meanwhile, where the child stops we stop, so that our shell does not take us for running; and
 * whoever becomes our child is waited for, as is the duty of process 1. Process 1 does not stop:
 * nobody waits for that, and the kernel lets it not.
 *
 * A child in the foreground of our terminal may leave that in any mode. Where standard input and
 * output are the terminal, and nobody else is in its foreground, it gets back the mode that it had.
 */
pid_t un_supervise(un_pass_on *pass_on, void *arg, int *parent_pidfd, int *status,
                   struct un_error *err);

#endif
