/*
 * A seccomp filter that prevents runsc's processes from registering for membarrier(2). Before
 * release 20260714, each process of runsc registers at startup for private expedited membarriers,
 * although only gVisor's kvm platform uses membarriers. The process already has threads then, so
 * the kernel waits for an RCU grace period, 10 ms and more, and the start of a sandbox includes
 * four such waits in sequence. The filter makes the registration return success, because runsc
 * would print any error to the command's output. A later membarrier still reaches the kernel, which
 * fails it with EPERM because the process is not registered. So runsc never mistakes a membarrier
 * that did not happen for a successful one.
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
/* Without this flag, kernels before 5.16 enable the mitigation of Speculative Store Bypass in every
 * process with a filter. The mitigation slows the process down. */
#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif

/* A BPF instruction that skips the next `skipped` instructions if the loaded value differs from
 * `number`. */
#define UNLESS(number, skipped) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, (skipped))
#define LOAD(member) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define ANSWER(action) BPF_STMT(BPF_RET | BPF_K, (action))

void un_add_membarrier_filter(void)
{
    /* Load the lower half of the first argument, which contains the whole int. This half comes
     * first, because both supported architectures are little-endian. */
    struct sock_filter filter[] = {
        LOAD(arch),
        UNLESS(UN_AUDIT_ARCH, 5),
        LOAD(nr),
        UNLESS(SYS_membarrier, 3),
        LOAD(args[0]),
        UNLESS(REGISTER, 1),
        ANSWER(SECCOMP_RET_ERRNO), /* errno 0, so that the call returns success */
        ANSWER(SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
}
