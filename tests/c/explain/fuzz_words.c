/* Fuzz target: runsc's log files with any content: the fatal errors, the crash report, the debug
 * log. Each of these files has the input as its content. */
#include "base/base.h"
#include "explain/explain.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct un_runsc_words words;
    int status;
    char path[UN_FD_PATH_MAX];
    un_auto_close int fd = memfd_create("log", MFD_CLOEXEC);
    if (fd < 0 || un_write_all(fd, (const char *)data, size))
        abort();
    un_fd_path(fd, path);
    if (un_runsc_words_read(path, path, path, &words))
        return 0;
    if (words.told && !words.messages.count)
        abort();
    if (words.crash && strchr(words.crash, '\n'))
        abort();
    un_runsc_words_free(&words);
    un_runsc_has_ended(path, &status);
    return 0;
}
