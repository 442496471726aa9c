/*
 * Each process of runsc registers for private expedited memory barriers when it starts, before it
 * knows what it is to do. It has threads by then, so the kernel lets it wait until all processors
 * have gone through a grace period: 10 ms and more, and four of them, one after the other, until
 * the command starts. No platform but kvm ever asks for such a barrier, and releases since 20260714
 * register on that one only.
 *
 * So a filter answers in the kernel's place. It says that the registration is done: an error runsc
 * would print where the command's output goes. Nobody is deceived about a barrier itself. That is
 * still asked of the kernel, which refuses it to who has not registered.
 */
#include "sys/sys.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define UN_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define UN_AUDIT_ARCH AUDIT_ARCH_AARCH64
#endif

/* linux/membarrier.h: MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED. */
#define REGISTER (1 << 4)
/* Without this flag, kernels before 5.16 slow down whoever has a filter (Speculative Store Bypass).
 */
#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif

/* Where the number is another one, so many statements are skipped. */
#define UNLESS(number, skipped) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, (skipped))
#define LOAD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define ANSWER(action) BPF_STMT(BPF_RET | BPF_K, (action))

void un_add_membarrier_filter(void)
{
    /* The first argument is an int, and both machines have its bytes first. */
    struct sock_filter filter[] = {
        LOAD(arch),
        UNLESS(UN_AUDIT_ARCH, 5),
        LOAD(nr),
        UNLESS(SYS_membarrier, 3),
        LOAD(args[0]),
        UNLESS(REGISTER, 1),
        ANSWER(SECCOMP_RET_ERRNO), /* and errno 0: it went well */
        ANSWER(SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
}
