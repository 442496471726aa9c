/* Fuzz target: each range that is parsed from any /etc/subuid has at least one id, and does not
 * contain 4294967295, which is not an id. */
#include "base/base.h"
#include "facts/facts.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct un_ranges ranges;
    static struct un_notices notices;
    struct un_error err;
    char path[UN_FD_PATH_MAX];
    un_auto_close int fd = memfd_create("subid", MFD_CLOEXEC);
    if (fd < 0 || un_write_all(fd, (const char *)data, size))
        abort();
    memset(&notices, 0, sizeof notices);
    if (un_subid_read(un_fd_path(fd, path), "user", 1000, &ranges, &notices, &err)) {
        if (!*err.detail)
            abort();
        return 0;
    }
    if (ranges.len > UN_MAP_MAX || notices.len > UN_NOTICES)
        abort();
    for (uint32_t i = 0; i < ranges.len; i++) {
        const struct un_range *range = &ranges.range[i];
        if (!range->count || range->count > UINT32_MAX - range->start)
            abort();
    }
    for (uint32_t i = 0; i < notices.len; i++)
        if (!memchr(notices.text[i], '\0', UN_NOTICE_MAX))
            abort();
    return 0;
}
