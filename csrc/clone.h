/* Starting a child that runs a function on a stack of its own. Internal. */
#ifndef USERNSCTL_CLONE_H
#define USERNSCTL_CLONE_H

#include "usernsctl.h"

/* From linux/sched.h, which does not go together with sched.h; since Linux 5.7. */
#define UN_CLONE_INTO_CGROUP 0x200000000ULL

struct un_clone {
    uint64_t flags;     /* CLONE_...; CLONE_PIDFD if pidfd is wanted */
    char *stack;        /* aligned to 16 bytes, mapped until the child execs or ends */
    size_t stack_size;  /* bytes */
    int (*run)(void *); /* what the child does; its result is the child's exit status */
    void *arg;
    int cgroup;      /* with UN_CLONE_INTO_CGROUP: a descriptor of its directory */
    int exit_signal; /* what the parent gets when the child ends; 0: nothing, see waitpid's __WALL
                      */
    pid_t pid;       /* out: the child */
    int pidfd;       /* out, with CLONE_PIDFD */
};

/*
 * clone3(2), or clone(2) where that is refused (kernels before 5.3, and seccomp filters that answer
 * ENOSYS, as container engines' do), but for UN_CLONE_INTO_CGROUP, which only clone3 has. All
 * signals are blocked in the child, and handlers are reset: none of the parent's may run in the
 * parent's memory. -1 with errno. Async-signal-safe.
 */
int un_clone(struct un_clone *clone);

/* Whether the kernel has clone3(2), and no filter keeps it from us. */
bool un_clone3_works(void);

/* pidfd_open(2), which older libcs lack. -1 with errno. Async-signal-safe. */
int un_pidfd_open(pid_t pid);

/* Records errno after a refused clone, unshare or setns with `flags`, with its cause if it is
 * plain. Returns -1. */
int un_explain_clone(struct un_error *err, enum un_step step, uint64_t flags);

/* After a refused clone into the cgroup whose directory is open as `dir`: if it was for the sake of
 * that, makes `err`, which has the errno, say what was wrong with it. */
void un_explain_cgroup(struct un_error *err, int dir);

#endif
