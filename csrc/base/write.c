#include "base/base.h"

#include <unistd.h>

int un_write_all(int fd, const char *from, size_t size)
{
    while (size) {
        ssize_t written = write(fd, from, size);
        if (written < 0)
            return -1;
        from += written;
        size -= (size_t)written;
    }
    return 0;
}
