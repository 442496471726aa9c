/* A Python interpreter that is linked with a sanitizer's runtime, because an extension that is
 * built with the sanitizer needs the runtime. LD_PRELOAD is not enough: tests clear the
 * environment, and other programs that tests start would load the runtime, too. */
#include <Python.h>

const char *__asan_default_options(void);
const char *__tsan_default_options(void);
const char *__tsan_default_suppressions(void);
const char *__ubsan_default_options(void);

/* CPython does not free all of its memory, so leaks are not detected here. tests/c detects leaks of
 * the core. */
const char *__asan_default_options(void)
{
    return "detect_leaks=0:detect_stack_use_after_return=1:allocator_may_return_null=1:exitcode=66";
}

const char *__tsan_default_options(void)
{
    return "report_signal_unsafe=0:exitcode=66";
}

/* Suppressions for children with CLONE_VM. Such a child shares memory with TSan, but has its own
 * descriptor table. TSan takes the child's descriptors for the parent's descriptors of the same
 * numbers, and reports races. */
const char *__tsan_default_suppressions(void)
{
    return "race:interceptor_close$\n"
           "race:interceptor_dup2$\n"
           "race:interceptor_fstat64$\n"
           "race:interceptor_pipe2$\n"
           "race:interceptor_read$\n"
           "race:interceptor_recvmsg$\n"
           "race:interceptor_sendmsg$\n"
           "race:interceptor_socketpair$\n";
}

const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1";
}

int main(int argc, char **argv)
{
    /* Make Python allocate memory by malloc(3), so that the sanitizer detects accesses past the end
     * of cffi's buffers. */
    PyPreConfig config;
    PyPreConfig_InitPythonConfig(&config);
    config.allocator = PYMEM_ALLOCATOR_MALLOC;
    PyStatus status = Py_PreInitializeFromBytesArgs(&config, argc, argv);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    return Py_BytesMain(argc, argv);
}
