/* Where a program without libc begins. Internal; who includes it defines start(). */
#ifndef USERNSCTL_BASE_ENTRY_H
#define USERNSCTL_BASE_ENTRY_H

/* Gets the stack as a program finds it (the System V ABI): argc, argv, NULL, envp, NULL. */
__attribute__((noreturn, used)) static void start(long *stack);

__asm__(".globl _start\n"
        "_start:\n\t"
#if defined(__x86_64__)
        "xor %ebp, %ebp\n\t"
        "mov %rsp, %rdi\n\t"
        "and $-16, %rsp\n\t"
        "call start\n");
#else
        "mov x29, #0\n\t"
        "mov x0, sp\n\t"
        "bl start\n");
#endif

#endif
