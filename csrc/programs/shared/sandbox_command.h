/* What the programs that start sandboxes have in common. */
#ifndef USERNSCTL_SHARED_SANDBOX_COMMAND_H
#define USERNSCTL_SHARED_SANDBOX_COMMAND_H

#include <signal.h>
#include <sys/types.h>

/* Exit statuses: something failed before the sandbox ran; whoever asked for it has ended. */
#define SANDBOX_FAILED 125
#define SANDBOX_KILLED (128 + SIGKILL)

/* Says what failed, and why by errno. Returns SANDBOX_FAILED. */
int sandbox_fail(const char *what);

/*
 * Takes over `count` descriptors that we were called with, whose numbers are the words of `argv`:
 * they go into `fds`, from 3 on, and are close-on-exec. What of 0 to 2 is not open, or was one of
 * them, becomes /dev/null: what we open would else be there, and be taken for standard input or
 * output by COMMAND. Returns 0, or -1: it was said what is wrong.
 */
int sandbox_take_fds(char **argv, int fds[], int count);

/*
 * Runs argv in a child, and lets go of our standard input, output and error: whoever reads what the
 * sandbox writes waits for all writers to end. `signals` becomes a signalfd, not blocking, that can
 * be read when a child has ended. Returns the child, or -1: it was said why there is none.
 */
pid_t sandbox_start_command(char **argv, int *signals);

#endif
