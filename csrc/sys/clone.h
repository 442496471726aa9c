/* Starting a child that runs a function. Internal. */
#ifndef USERNSCTL_SYS_CLONE_H
#define USERNSCTL_SYS_CLONE_H

#include "include/usernsctl.h"

#include <signal.h>

/* From linux/sched.h, which does not go together with sched.h; since Linux 5.7. */
#define UN_CLONE_INTO_CGROUP 0x200000000ULL

/* waitid(2) by a pidfd, since Linux 5.4; younger than some libcs. */
#define UN_BY_PIDFD 3

struct un_clone {
    uint64_t flags;     /* CLONE_...; CLONE_VM only with CLONE_VFORK; CLONE_PIDFD for pidfd */
    int (*run)(void *); /* what the child does; its result is the child's exit status */
    void *arg;
    int cgroup;      /* with UN_CLONE_INTO_CGROUP: a descriptor of its directory */
    int exit_signal; /* what the parent gets when the child ends */
    pid_t pid;       /* out: the child */
    int pidfd;       /* out, with CLONE_PIDFD */
};

/*
 * clone3(2), or clone(2) where that is refused (kernels before 5.3, and seccomp filters that answer
 * ENOSYS, as container engines' do), but for UN_CLONE_INTO_CGROUP, which only clone3 has. The child
 * goes on below us on the stack that we are on: a stack that has room for its calls is all it
 * takes. All signals are blocked in the child, and handlers are reset: none of the parent's may run
 * in the parent's memory. -1 with errno. Async-signal-safe.
 */
int un_clone(struct un_clone *clone);

/* Whether the kernel has clone3(2), and no filter keeps it from us. */
bool un_clone3_works(void);

/* pidfd_open(2), which older libcs lack. -1 with errno. Async-signal-safe. */
int un_pidfd_open(pid_t pid);

/* Waits for the end of the child that a pidfd refers to. False: how it ended is not to be known,
 * since SIGCHLD is ignored, or somebody else has waited for it. */
bool un_reap(int pidfd, siginfo_t *how);
/* SIGKILL to whom the pidfd refers, and to nobody else. */
void un_kill(int pidfd);

/* Blocks every signal, those that libc keeps for itself included: what was blocked before.
 * Async-signal-safe. */
uint64_t un_block_signals(void);
void un_set_signals(uint64_t mask);

/* Has this thread not be cancelled: what pthread_cancel(3) does would happen in a child that shares
 * our memory, or leave a child and descriptors behind. Returns what to restore. */
int un_forbid_cancel(void);
void un_restore_cancel(int state);

/* Records errno after a refused clone, unshare or setns with `flags`, with its cause if it is
 * plain. Returns -1. */
int un_explain_clone(struct un_error *err, enum un_step step, uint64_t flags);

/* After a refused clone into the cgroup whose directory is open as `dir`: if it was for the sake of
 * that, makes `err`, which has the errno, say what was wrong with it. */
void un_explain_cgroup(struct un_error *err, int dir);

#endif
