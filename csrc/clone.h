/* Starting a child that runs a function on a stack of its own. Internal. */
#ifndef USERNSCTL_CLONE_H
#define USERNSCTL_CLONE_H

#include "usernsctl.h"

struct un_clone {
    uint64_t flags;     /* CLONE_...; CLONE_PIDFD if pidfd is wanted */
    char *stack;        /* aligned to 16 bytes, mapped until the child execs or ends */
    size_t stack_size;  /* bytes */
    int (*run)(void *); /* what the child does; its result is the child's exit status */
    void *arg;
    int exit_signal; /* what the parent gets when the child ends; 0: nothing, see waitpid's __WALL
                      */
    pid_t pid;       /* out: the child */
    int pidfd;       /* out, with CLONE_PIDFD */
};

/*
 * clone3(2), or clone(2) where that is refused (kernels before 5.3, and seccomp filters that answer
 * ENOSYS, as container engines' do). All signals are blocked in the child, and handlers are reset:
 * none of the parent's may run in the parent's memory. -1 with errno. Async-signal-safe.
 */
int un_clone(struct un_clone *clone);

/* pidfd_open(2), which older libcs lack. -1 with errno. Async-signal-safe. */
int un_pidfd_open(pid_t pid);

/* Records errno after a refused clone, unshare or setns with `flags`, with its cause if it is
 * plain. Returns -1. */
int un_explain_clone(struct un_error *err, enum un_step step, uint64_t flags);

#endif
