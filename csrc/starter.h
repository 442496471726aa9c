/* What the programs that start sandboxes have in common. */
#ifndef USERNSCTL_STARTER_H
#define USERNSCTL_STARTER_H

#include <signal.h>
#include <sys/types.h>

/* Exit statuses: something failed before the sandbox ran; whoever asked for it has ended. */
#define STARTER_FAILED 125
#define STARTER_KILLED (128 + SIGKILL)

/* Says what failed, and why by errno. Returns STARTER_FAILED. */
int starter_fail(const char *what);

/* The exit status that stands for one of waitpid(2). */
int starter_exit_status(int status);

/*
 * Runs argv in a child, and closes our standard input, output and error: whoever reads what the
 * sandbox writes waits for all writers to end. `signals` becomes a signalfd, not blocking, that can
 * be read when a child has ended. Returns the child, or -1: it was said why there is none.
 */
pid_t starter_start(char **argv, int *signals);

#endif
