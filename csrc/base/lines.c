#include "base/base.h"

#include <sys/stat.h>

bool un_lines_open(struct un_lines *lines, const char *path)
{
    struct stat status;
    lines->errnum = 0;
    lines->read = 0;
    lines->at = lines->length = 0;
    lines->fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (lines->fd < 0 || fstat(lines->fd, &status))
        lines->errnum = errno;
    else if (!S_ISREG(status.st_mode))
        lines->errnum = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    else
        lines->size = (uint64_t)status.st_size;
    errno = lines->errnum;
    return !lines->errnum;
}

bool un_lines_is_no_file(int errnum)
{
    /* ENXIO is the error of open(2) for a UNIX domain socket. */
    return errnum == EISDIR || errnum == EINVAL || errnum == ENXIO;
}

/* Reads the next block of the file into `block`. Returns false at the end of the file. */
static bool read_block(struct un_lines *lines)
{
    ssize_t got;
    /* If the size of the file is known, skip the last read(2), which would only return 0 at the end
     * of the file. Data that is appended after the file was opened may be ignored. A file that the
     * kernel generates has the size 0, so read it until read(2) returns 0. */
    if (lines->errnum || (lines->size && lines->read >= lines->size))
        return false;
    while ((got = read(lines->fd, lines->block, sizeof lines->block)) < 0 && errno == EINTR)
        continue;
    lines->errnum = got < 0 ? errno : 0;
    lines->at = 0;
    lines->length = got < 0 ? 0 : (size_t)got;
    lines->read += lines->length;
    return lines->length > 0;
}

bool un_lines_next(struct un_lines *lines, char line[UN_LINE_MAX], bool *cut)
{
    size_t length = 0;
    bool any = false, ended = false;
    *cut = false;
    while (!ended && (lines->at < lines->length || read_block(lines))) {
        const char *from = lines->block + lines->at;
        const char *end = memchr(from, '\n', lines->length - lines->at);
        size_t part = end ? (size_t)(end - from) : lines->length - lines->at;
        size_t room = UN_LINE_MAX - 1 - length;
        any = true;
        ended = end;
        *cut = *cut || part >= room;
        memcpy(line + length, from, part < room ? part : room);
        length += part < room ? part : room;
        lines->at += part + ended;
    }
    line[length] = '\0';
    return any;
}

void un_lines_rewind(struct un_lines *lines)
{
    lines->at = 0;
    /* Skip lseek(2) if the whole file is still in the block. */
    if (lines->read == lines->length && !lines->errnum)
        return;
    lines->length = 0;
    lines->read = 0;
    lines->errnum = lseek(lines->fd, 0, SEEK_SET) < 0 ? errno : 0;
}

void un_lines_close(const struct un_lines *lines)
{
    un_close_quietly(lines->fd);
}
