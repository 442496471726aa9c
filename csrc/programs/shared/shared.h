/* What several programs use. */
#ifndef USERNSCTL_PROGRAMS_SHARED_SHARED_H
#define USERNSCTL_PROGRAMS_SHARED_SHARED_H

#include "include/usernsctl.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

/* ---- report.c: what the programs print on standard error ------------------------------------- */

/* A failure: in which step, why, and what mends it. */
void report_error(const char *program, const struct un_error *err);

/* The same with a remedy that is better than the cause's own; NULL: there is none. */
void report_error_with(const char *program, const struct un_error *err, const char *remedy);

/* What is known of a cause, if its id is known. */
void report_cause(const char *id);

/* ---- early_signals.c: signals that come before somebody can pass them on --------------------- */

/*
 * The first process of a container never gets a signal that it neither handles nor blocks. What is
 * blocked waits until the watcher can pass it on; else docker stop, come early, would be lost.
 * Returns 0, or -1 with errno.
 */
int keep_early_signals(void);

/* ---- sandbox_command.c: what the programs that start sandboxes have in common ---------------- */

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

/* ---- proof.c: whether the kernel is gVisor's ------------------------------------------------- */

/* The kernel itself is asked, so that neither a mounted /proc nor a file can lie about it. */

/* What is said if it is not. */
#define UN_NOT_PROVEN                                                                              \
    "not started: this kernel is not gVisor's (its build and its boot message are missing), so "   \
    "what was called as runsc did not make a sandbox"

bool un_runs_on_gvisor(void);

#endif
