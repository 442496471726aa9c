/* Entry point and system calls of a program without libc. Internal. Each source that includes this
 * header must define start(). */
#ifndef USERNSCTL_BASE_FREESTANDING_H
#define USERNSCTL_BASE_FREESTANDING_H

#include <asm/unistd.h>

#ifndef UN_NO_ENTRY
/* Runs the program, in place of main(). `stack` is the initial stack of the process (System V ABI):
 * argc, argv, NULL, envp, NULL. */
__attribute__((noreturn, used)) static void start(long *stack);

__asm__(".globl _start\n_start:\n\t"
#if defined(__x86_64__)
        "xor %ebp, %ebp\n\t"
        "mov %rsp, %rdi\n\t"
        "and $-16, %rsp\n\t"
        "call start\n"
#else
        "mov x29, #0\n\t"
        "mov x0, sp\n\t"
        "bl start\n"
#endif
);
#endif

/*
 * Makes a system call. Returns its result, or the negated errno.
 *
 * gVisor replaces the instructions "mov $NUMBER, %eax; syscall" by a faster call, and recognizes
 * them only by their bytes. If a compiler placed another instruction before the syscall, gVisor
 * could mistake the last bytes of that instruction for the mov, and overwrite them. So this code
 * emits either exactly the pair that gVisor replaces, or a nop before the syscall, because gVisor
 * never mistakes a nop for the mov.
 */
__attribute__((always_inline)) static inline long un_raw_call(long number, long a, long b, long c,
                                                              long d, long e, long f)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    if (__builtin_constant_p(number))
        __asm__ volatile("mov %[number], %%eax\n\tsyscall"
                         : "=a"(result)
                         : [number] "i"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "r11", "memory");
    else
        __asm__ volatile("nop\n\tsyscall"
                         : "=a"(result)
                         : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#endif
}

#endif
