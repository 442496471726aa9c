/* Holding a namespace for others. Internal. */
#ifndef USERNSCTL_EXEC_HOLD_H
#define USERNSCTL_EXEC_HOLD_H

#include "include/usernsctl.h"

/* What the kernel calls a holder that has been told to stay (PR_SET_NAME(2const)). */
#define UN_HOLDER_NAME "usernsctl-hold"

/*
 * Leaves a process in the namespaces that this one has entered, and returns; -1 if there is none.
 *
 * `socket` is a SOCK_SEQPACKET connection to whoever wants the namespaces. It gets "pid N" from us,
 * and from the holder "ready", with descriptors of all its namespaces in the order of enum un_ns,
 * or what un_hold_report() writes. Once it has got a byte back, the holder takes its name, closes
 * the connection, and stays; only then, with no descriptor left, others may open its namespaces in
 * /proc, and look into its memory, see un_forget_environment(). If the connection is closed before,
 * it ends: no holder is left that nobody knows of.
 */
int un_hold(int socket, const struct un_setup *setup, struct un_error *err);
/* Overwrites the environment that this program was started with, but for PATH: it is the caller's,
 * and would be in the memory of the holder. */
void un_forget_environment(char **environment);
/* Sends "error STEP ERRNO CAUSE DETAIL", a NUL, and what mends it here, or nothing. */
void un_hold_report(int socket, const struct un_error *err);

#endif
