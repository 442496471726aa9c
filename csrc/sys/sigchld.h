/* Waiting for children where the caller ignores SIGCHLD. Internal. */
#ifndef USERNSCTL_SYS_SIGCHLD_H
#define USERNSCTL_SYS_SIGCHLD_H

#include "include/usernsctl.h"

#include <signal.h>

/*
 * Calls `run` where it can wait for the children that it starts. Where SIGCHLD is ignored, or has
 * SA_NOCLDWAIT, the kernel reaps the children of a process, and tells nobody how they ended
 * (wait(2)). To change that would change it for all threads, and for the children of all of them.
 * So `run` is called in a process of its own then, which shares our memory but not our signal
 * actions, while this thread is suspended. All signals are blocked in there: `signals` is what this
 * thread blocks, for a program that is started. It is NULL where `run` is called in this process.
 *
 * Returns what `run` does: 0, or -1 with err filled in. `run` makes system calls and little else.
 */
int un_call_waiting(int (*run)(void *arg, const uint64_t *signals), void *arg,
                    struct un_error *err);

/* For a program of ours that has one thread and waits: gives SIGCHLD its default action. `before`
 * is the caller's, which a command that is executed gets back. */
void un_default_sigchld(struct sigaction *before);

#endif
