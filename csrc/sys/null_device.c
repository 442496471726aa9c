#include "sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool is_null(int fd)
{
    struct stat status;
    return !fstat(fd, &status) && S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
}

int un_fill_stdio(void)
{
    for (int fd = 0; fd < 3; fd++) {
        /* Open standard input for reading only: Landlock may deny writing to /dev/null. */
        int mode = fd ? O_RDWR : O_RDONLY;
        /* open(2) returns the lowest free number, which is `fd`. */
        if (fcntl(fd, F_GETFD) < 0 && (un_open_null(mode) != fd || fcntl(fd, F_SETFD, 0)))
            return -1;
    }
    return 0;
}

int un_open_null(int mode)
{
    int fd = openat(AT_FDCWD, "/dev/null", mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    /* Clear O_NONBLOCK: only open(2) needed this flag, and programs that inherit the descriptor
     * don't expect it. */
    if (fd < 0 || (is_null(fd) && !fcntl(fd, F_SETFL, mode)))
        return fd;
    close(fd);
    errno = ENODEV;
    return -1;
}
