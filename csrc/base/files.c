#include "base/base.h"

#include <sys/stat.h>

int un_path_join(char path[UN_PATH_MAX], const char *directory, const char *name)
{
    if (snprintf(path, UN_PATH_MAX, "%s/%s", directory, name) < UN_PATH_MAX)
        return 0;
    errno = ENAMETOOLONG;
    return -1;
}

void un_close_fd(int *fd)
{
    un_close_quietly(__atomic_exchange_n(fd, -1, __ATOMIC_RELAXED));
}

bool un_is_below(const char *path, const char *top)
{
    size_t length = strcmp(top, "/") ? strlen(top) : 0;
    return !strncmp(path, top, length) && (!path[length] || path[length] == '/' || !length);
}

const char *un_fd_path(int fd, char path[UN_FD_PATH_MAX])
{
    snprintf(path, UN_FD_PATH_MAX, "/proc/self/fd/%d", fd);
    return path;
}

int un_reopen(int fd, int flags)
{
    char path[UN_FD_PATH_MAX];
    return openat(AT_FDCWD, un_fd_path(fd, path), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

int un_open_regular(const char *path, struct stat *status)
{
    int fd = openat(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || (!fstat(fd, status) && S_ISREG(status->st_mode)))
        return fd;
    close(fd);
    return -1;
}

ssize_t un_read_all(int fd, char *bytes, size_t size)
{
    size_t length = 0;
    while (length < size) {
        ssize_t got = read(fd, bytes + length, size - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (!got)
            break;
        length += (size_t)got;
    }
    return (ssize_t)length;
}

ssize_t un_read_file(int directory, const char *name, char *text, size_t size)
{
    un_auto_close int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t length = fd < 0 ? -1 : un_read_all(fd, text, size - 1);
    text[length < 0 ? 0 : length] = '\0';
    return length;
}

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

int64_t un_field_number(const char *path, const char *key)
{
    char line[512];
    un_auto_fclose FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key)))
            return strtoll(line + strlen(key), NULL, 10);
    errno = file ? EBADMSG : errno;
    return -1;
}

int64_t un_fd_info(int fd, const char *key)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    return un_field_number(path, key);
}
