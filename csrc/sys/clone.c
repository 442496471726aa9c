#include "sys/sys.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* CLONE_CLEAR_SIGHAND, from linux/sched.h, which can't be included together with sched.h. */
#define CLEAR_SIGHAND 0x100000000ULL

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN
#endif
#ifdef WITH_ASAN
void __asan_unpoison_memory_region(const volatile void *at, size_t size);
/* Tells AddressSanitizer that the stack below this frame is unused. Functions that the child called
 * have left marks of their frames there: they never returned, because the child called execve(2) or
 * exited. */
static void forget_frames_of_child(void)
{
    enum { BELOW = 32 * 1024 };
    char here;
    __asan_unpoison_memory_region(&here - BELOW, BELOW);
}
#else
static void forget_frames_of_child(void)
{
}
#endif

/* struct clone_args, the argument of clone3(2). */
struct clone3_args {
    uint64_t flags;
    uint64_t pidfd;
    uint64_t child_tid;
    uint64_t parent_tid;
    uint64_t exit_signal;
    uint64_t stack;
    uint64_t stack_size;
    uint64_t tls;
    uint64_t set_tid; /* this field exists since Linux 5.5 */
    uint64_t set_tid_size;
    uint64_t cgroup; /* this field exists since Linux 5.7 */
};

/*
 * Calls clone3(2) or clone(2), as `number` selects. In the child, calls `run` and exits with its
 * result. The child must never return from this function, because with CLONE_VM the stack frame is
 * also the parent's. A child without a stack of its own may use the parent's stack below the red
 * zone, because the parent is suspended as long as the two processes share memory (CLONE_VFORK), as
 * with vfork(2).
 */
#if defined(__x86_64__)
static long call_and_run(long number, long first, long second, long third, int (*run)(void *),
                         void *arg)
{
    register long result __asm__("rax") = number;
    register long a1 __asm__("rdi") = first;
    register long a2 __asm__("rsi") = second;
    register long a3 __asm__("rdx") = third;
    register long a4 __asm__("r10") = 0;
    register long a5 __asm__("r8") = 0;
    register int (*child_run)(void *) __asm__("r12") = run;
    register void *child_arg __asm__("r13") = arg;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "lea -128(%%rsp), %%rsp\n\t"
                     "and $-16, %%rsp\n\t"
                     "mov %[arg], %%rdi\n\t"
                     "call *%[run]\n\t"
                     "mov %%eax, %%edi\n\t"
                     "mov %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "+r"(result)
                     : "r"(a1), "r"(a2), "r"(a3), "r"(a4),
                       "r"(a5), [run] "r"(child_run), [arg] "r"(child_arg), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory", "cc");
    return result;
}
#elif defined(__aarch64__)
static long call_and_run(long number, long first, long second, long third, int (*run)(void *),
                         void *arg)
{
    register long x8 __asm__("x8") = number;
    register long result __asm__("x0") = first;
    register long a2 __asm__("x1") = second;
    register long a3 __asm__("x2") = third;
    register long a4 __asm__("x3") = 0;
    register long a5 __asm__("x4") = 0;
    register int (*child_run)(void *) __asm__("x19") = run;
    register void *child_arg __asm__("x20") = arg;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "sub sp, sp, #128\n\t"
                     "mov x0, %[arg]\n\t"
                     "blr %[run]\n\t"
                     "mov x8, %[exit]\n\t"
                     "svc #0\n"
                     "1:"
                     : "+r"(result)
                     : "r"(x8), "r"(a2), "r"(a3), "r"(a4),
                       "r"(a5), [run] "r"(child_run), [arg] "r"(child_arg), [exit] "i"(SYS_exit)
                     : "memory", "cc");
    return result;
}
#endif

/* Stores in `clone` the pid that the system call has returned. Returns 0, or -1 with errno set if
 * the system call has failed. */
static int take_pid(struct un_clone *clone, long result)
{
    clone->pid = (pid_t)result;
    errno = result < 0 ? (int)-result : errno;
    return result < 0 ? -1 : 0;
}

static int try_clone3(struct un_clone *clone)
{
    bool in_cgroup = clone->flags & UN_CLONE_INTO_CGROUP;
    struct clone3_args args = {
        .flags = clone->flags | CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)&clone->pidfd,
        .exit_signal = (uint64_t)clone->exit_signal,
        .cgroup = in_cgroup ? (uint64_t)clone->cgroup : 0,
    };
    size_t size = in_cgroup ? sizeof args : offsetof(struct clone3_args, set_tid);
    long pid = call_and_run(UN_SYS_CLONE3, (long)&args, (long)size, 0, clone->run, clone->arg);
    return take_pid(clone, pid);
}

/* Resets all signal handlers, and calls the function that runs in the child. clone(2) has no flag
 * like CLONE_CLEAR_SIGHAND of clone3(2). */
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
    int flags = (int)c->flags | c->exit_signal;
    int (*run)(void *) = c->is_plain ? c->run : reset_handlers_and_run;
    void *arg = c->is_plain ? c->arg : c;
    long pid = call_and_run(SYS_clone, flags, (long)c->stack, (long)&c->pidfd, run, arg);
    return take_pid(c, pid);
}

uint64_t un_block_signals(void)
{
    uint64_t all = ~UINT64_C(0), before = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    return before;
}

void un_set_signals(uint64_t mask)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
}

uint64_t un_signal_mask(void)
{
    uint64_t mask = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, sizeof mask);
    return mask;
}

int un_clone(struct un_clone *clone)
{
    if (!clone->is_plain) {
        clone->signals = un_block_signals();
        clone->pidfd = -1;
    }
    int failed = clone->is_plain ? try_clone(clone) : try_clone3(clone);
    /* Also try clone(2) after EPERM, the error of some filters for unknown system calls. If the
     * kernel itself denied the flags, clone(2) fails with EPERM, too. With a cgroup, clone(2) can't
     * be used. */
    if (failed && !clone->is_plain && !(clone->flags & UN_CLONE_INTO_CGROUP) &&
        (errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == E2BIG))
        failed = try_clone(clone);
    int errnum = errno;
    forget_frames_of_child();
    if (!clone->is_plain)
        un_set_signals(clone->signals);
    errno = errnum;
    return failed;
}

pid_t un_fork(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

bool un_clone3_works(void)
{
    /* With the size 0, clone3(2) fails with EINVAL, so this call creates no process. */
    return !syscall(UN_SYS_CLONE3, NULL, 0) || (errno != ENOSYS && errno != EPERM);
}

void un_restore_signals(void)
{
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
}
