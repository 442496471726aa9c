#include "clone.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
/* From linux/sched.h, which does not go together with sched.h. */
#define CLEAR_SIGHAND 0x100000000ULL
#define PIDFD 0x00001000

/* struct clone_args of clone3(2). */
struct clone3_args {
    uint64_t flags;
    uint64_t pidfd;
    uint64_t child_tid;
    uint64_t parent_tid;
    uint64_t exit_signal;
    uint64_t stack;
    uint64_t stack_size;
    uint64_t tls;
    uint64_t set_tid; /* not before Linux 5.5 */
    uint64_t set_tid_size;
    uint64_t cgroup; /* not before Linux 5.7 */
};

/*
 * The child returns from the system call onto an empty stack, so there is no C function to return
 * to: it must call `run` from here. libc offers this for clone(2) only.
 */
static long clone3_and_run(struct clone3_args *args, size_t size, int (*run)(void *), void *arg)
{
#if defined(__x86_64__)
    register long result __asm__("rax") = SYS_clone3;
    register struct clone3_args *a1 __asm__("rdi") = args;
    register size_t a2 __asm__("rsi") = size;
    register int (*child_run)(void *) __asm__("r12") = run;
    register void *child_arg __asm__("r13") = arg;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %[arg], %%rdi\n\t"
                     "call *%[run]\n\t"
                     "mov %%eax, %%edi\n\t"
                     "mov %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "+r"(result)
                     : "r"(a1),
                       "r"(a2), [run] "r"(child_run), [arg] "r"(child_arg), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_clone3;
    register long result __asm__("x0") = (long)args;
    register size_t a2 __asm__("x1") = size;
    register int (*child_run)(void *) __asm__("x19") = run;
    register void *child_arg __asm__("x20") = arg;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, %[arg]\n\t"
                     "blr %[run]\n\t"
                     "mov x8, %[exit]\n\t"
                     "svc #0\n"
                     "1:"
                     : "+r"(result)
                     : "r"(x8),
                       "r"(a2), [run] "r"(child_run), [arg] "r"(child_arg), [exit] "i"(SYS_exit)
                     : "memory", "cc");
    return result;
#else
    (void)args, (void)size, (void)run, (void)arg;
    return -ENOSYS;
#endif
}

static int try_clone3(struct un_clone *clone)
{
    bool in_cgroup = clone->flags & UN_CLONE_INTO_CGROUP;
    struct clone3_args args = {
        .flags = clone->flags | CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)&clone->pidfd,
        .exit_signal = (uint64_t)clone->exit_signal,
        .stack = (uint64_t)(uintptr_t)clone->stack,
        .stack_size = clone->stack_size,
        .cgroup = in_cgroup ? (uint64_t)clone->cgroup : 0,
    };
    size_t size = in_cgroup ? sizeof args : offsetof(struct clone3_args, set_tid);
    long pid = clone3_and_run(&args, size, clone->run, clone->arg);
    if (pid < 0) {
        errno = (int)-pid;
        return -1;
    }
    clone->pid = (pid_t)pid;
    return 0;
}

/* CLONE_CLEAR_SIGHAND for clone(2), which has no room for the flag. */
static int reset_handlers_and_run(void *arg)
{
    const struct un_clone *clone = arg;
    for (int sig = 1; sig < NSIG; sig++) {
        struct sigaction action;
        if (sigaction(sig, NULL, &action) || action.sa_handler == SIG_IGN ||
            action.sa_handler == SIG_DFL)
            continue;
        memset(&action, 0, sizeof action);
        sigaction(sig, &action, NULL);
    }
    return clone->run(clone->arg);
}

static int try_clone(struct un_clone *c)
{
    /* The low byte of the flags is the exit signal here, and CLONE_NEWTIME lies in it. */
    if (c->flags & CSIGNAL) {
        errno = ENOSYS;
        return -1;
    }
    int flags = (int)c->flags | c->exit_signal;
    pid_t pid = clone(reset_handlers_and_run, c->stack + c->stack_size, flags, c, &c->pidfd);
    if (pid < 0)
        return -1;
    c->pid = pid;
    return 0;
}

int un_clone(struct un_clone *clone)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    clone->pidfd = -1;
    int failed = try_clone3(clone);
    /* EPERM is what some filters answer to a call they don't know: clone(2) tells whether it is. It
     * has nothing to say of cgroups. */
    if (failed && !(clone->flags & UN_CLONE_INTO_CGROUP) &&
        (errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == E2BIG))
        failed = try_clone(clone);
    int errnum = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = errnum;
    return failed;
}

bool un_clone3_works(void)
{
    /* What the kernel has to say to no arguments is EINVAL. */
    return !syscall(SYS_clone3, NULL, 0) || (errno != ENOSYS && errno != EPERM);
}

int un_pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}
