/* Starting a child that runs a function. Internal. */
#ifndef USERNSCTL_SYS_CLONE_H
#define USERNSCTL_SYS_CLONE_H

#include "include/usernsctl.h"

/* From linux/sched.h, which does not go together with sched.h; since Linux 5.7. */
#define UN_CLONE_INTO_CGROUP 0x200000000ULL

struct un_clone {
    uint64_t flags;     /* CLONE_...; CLONE_VM only with CLONE_VFORK; CLONE_PIDFD for pidfd */
    int (*run)(void *); /* what the child does; its result is the child's exit status */
    void *arg;
    int cgroup;       /* with UN_CLONE_INTO_CGROUP: a descriptor of its directory */
    int exit_signal;  /* what the parent gets when the child ends */
    bool is_plain;    /* clone(2) will do: all signals are blocked, and there are no handlers */
    void *stack;      /* with is_plain, the end of its own: then CLONE_VM alone will do */
    pid_t pid;        /* out: the child */
    int pidfd;        /* out, with CLONE_PIDFD */
    uint64_t signals; /* out: what the caller blocks; `run` may know it, too */
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

/* Blocks every signal, those that libc keeps for itself included: what was blocked before.
 * Async-signal-safe. */
uint64_t un_block_signals(void);
void un_set_signals(uint64_t mask);
/* What this thread blocks. Async-signal-safe. */
uint64_t un_signal_mask(void);

/* Gives SIGPIPE and SIGXFSZ, which Python ignores, their default action. Async-signal-safe. */
void un_restore_signals(void);

#endif
