/*
 * A seccomp filter that keeps runsc from registering for memory barriers.
 *
 * Each process of runsc registers for private expedited memory barriers at startup. At that time
 * the process already has threads, so the kernel waits for an RCU grace period, 10 ms and more. The
 * start of a sandbox includes four of these waits in sequence. Only the kvm platform of gVisor uses
 * the barriers, and releases since 20260714 register on that platform only.
 *
 * The filter returns success without registering, because runsc would otherwise print an error to
 * the command's output. Barriers themselves still reach the kernel, which fails them with EPERM for
 * a process that is not registered, so runsc never assumes a barrier that did not happen.
 */
#include "sys/sys.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED from linux/membarrier.h. */
#define REGISTER (1 << 4)
/* Without this flag, kernels before 5.16 enable the Speculative Store Bypass mitigation for every
 * process with a filter, which slows the process down. */
#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif

/* Skips `skipped` instructions unless the loaded value equals `number`. */
#define UNLESS(number, skipped) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, (skipped))
#define LOAD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define ANSWER(action) BPF_STMT(BPF_RET | BPF_K, (action))

void un_add_membarrier_filter(void)
{
    /* The first argument is an int. Both architectures are little-endian, so the bytes of the int
     * come first. */
    struct sock_filter filter[] = {
        LOAD(arch),
        UNLESS(UN_AUDIT_ARCH, 5),
        LOAD(nr),
        UNLESS(SYS_membarrier, 3),
        LOAD(args[0]),
        UNLESS(REGISTER, 1),
        ANSWER(SECCOMP_RET_ERRNO), /* the errno is 0, so the call returns success */
        ANSWER(SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
}
