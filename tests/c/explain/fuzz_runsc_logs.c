/* Fuzz target: reads runsc's error log, crash report and debug log, each with the input as its
 * content. Checks that the reason for a failure comes from the messages or the crash report, and
 * that the extract from the crash report is a single line. */
#include "base/base.h"
#include "explain/explain.h"

#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct un_runsc_logs logs;
    struct stat about;
    int status;
    /* Use a named file, because usernsctl does not follow a symbolic link to a log, and the files
     * in /proc/self/fd are such links. */
    char path[] = "/dev/shm/fuzz_runsc_logs.XXXXXX";
    un_auto_close int fd = mkostemp(path, O_CLOEXEC);
    /* Exit instead of abort() if a call fails: tools/c_faults.py makes calls fail, and then accepts
     * only tests that end without a signal. */
    if (fd < 0 || un_write_all(fd, (const char *)data, size))
        _exit(1);
    un_auto_close int again = un_open_regular(path, &about);
    if (again < 0 || un_runsc_logs_read(path, path, path, &logs))
        _exit(1);
    if (about.st_size != (off_t)size)
        abort();
    if (logs.reason && logs.reason != logs.crash && logs.reason != logs.messages.bytes)
        abort();
    if (logs.reason && !logs.messages.count && !logs.crash)
        abort();
    if (logs.crash && strchr(logs.crash, '\n'))
        abort();
    un_runsc_logs_free(&logs);
    un_runsc_has_ended(path, &status);
    unlink(path);
    return 0;
}
