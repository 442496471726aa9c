/* Seccomp filters for C tests. */
#ifndef SECCOMP_H
#define SECCOMP_H

#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Installs a seccomp filter that returns `answer` for the system call `call` if the argument with
 * the number `argument` is `value`, or for any arguments if `argument` is -1. */
static inline void filter_argument(unsigned call, int argument, unsigned value, unsigned answer)
{
    unsigned offset = (unsigned)offsetof(struct seccomp_data, args) + 8 * (unsigned)argument;
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument < 0 ? 0 : offset),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argument < 0 ? call : value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = COUNT(rules), .filter = rules};
    CHECK_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_INT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* Installs a seccomp filter that returns `answer` for each call of the system call `call`. */
static inline void filter_call(unsigned call, unsigned answer)
{
    filter_argument(call, -1, 0, answer);
}

/* Makes the system call `call` fail with `errnum`, by a seccomp filter. */
static inline void refuse_call(unsigned call, int errnum)
{
    filter_call(call, SECCOMP_RET_ERRNO | (unsigned)errnum);
}

#endif
