/* Other processes: by descriptors that stay theirs, and how they ended. Internal. */
#ifndef USERNSCTL_SYS_PROCESS_H
#define USERNSCTL_SYS_PROCESS_H

#include "include/usernsctl.h"

#include <signal.h>

/* waitid(2) by a pidfd, since Linux 5.4; younger than some libcs. */
#define UN_BY_PIDFD 3

/* pidfd_open(2), which older libcs lack. -1 with errno. Async-signal-safe. */
int un_pidfd_open(pid_t pid);

/* Waits for the end of the child that a pidfd refers to. Returns false if nobody can tell how it
 * ended: the kernel reaped it, since SIGCHLD is ignored, or somebody else did, and Linux is older
 * than 6.15. */
bool un_reap(int pidfd, siginfo_t *how);
/* The signal that has stopped a child; 0: none has. */
int un_stopped_by(int pidfd);
/* SIGKILL to whom the pidfd refers, and to nobody else. */
void un_kill(int pidfd);
/* Kills a child, and reaps it as un_reap() does, but waits no longer than a few seconds: a file
 * system of others' making (FUSE) can keep even SIGKILL from a process. */
bool un_kill_and_reap(int pidfd, siginfo_t *how);

/* The exit status that stands for a status of waitpid(2): the child's, or 128+N if signal N killed
 * it. */
int un_exit_status_of(int wait_status);

/* Has this thread not be cancelled: what pthread_cancel(3) does would happen in a child that shares
 * our memory, or leave a child and descriptors behind. Returns what to restore. */
int un_forbid_cancel(void);
void un_restore_cancel(int state);

#endif
