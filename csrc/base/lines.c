#include "base/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

FILE *un_lines_open(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return NULL;
    FILE *file = NULL;
    if (fstat(fd, &status) == 0) {
        errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
        file = S_ISREG(status.st_mode) ? fdopen(fd, "r") : NULL;
    }
    if (!file) {
        int errnum = errno;
        close(fd);
        errno = errnum;
    }
    return file;
}

bool un_lines_next(FILE *file, char line[UN_LINE_MAX], bool *cut)
{
    if (!fgets(line, UN_LINE_MAX, file))
        return false;
    size_t length = strcspn(line, "\n");
    *cut = !line[length] && length == UN_LINE_MAX - 1;
    line[length] = '\0';
    for (int byte = *cut ? 0 : '\n'; byte != '\n' && byte != EOF;)
        byte = fgetc(file);
    return true;
}
