/* Fuzz target: reads runsc's error log, crash report and debug log, each with the input as its
 * content. Checks that there is a reason only if there are messages, and that the line of the crash
 * report is a single line. */
#include "base/base.h"
#include "explain/explain.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct un_runsc_logs logs;
    int status;
    char path[UN_FD_PATH_MAX];
    un_auto_close int fd = memfd_create("log", MFD_CLOEXEC);
    if (fd < 0 || un_write_all(fd, (const char *)data, size))
        abort();
    un_fd_path(fd, path);
    if (un_runsc_logs_read(path, path, path, &logs))
        return 0;
    if (logs.reason && !logs.messages.count)
        abort();
    if (logs.crash && strchr(logs.crash, '\n'))
        abort();
    un_runsc_logs_free(&logs);
    un_runsc_has_ended(path, &status);
    return 0;
}
