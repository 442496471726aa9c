/* Private open file descriptions for standard input, output and error. */
#include "sys/sys.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Uses direct system calls, because the child program has no libc. */
static bool is_terminal(int fd)
{
    struct termios mode;
    return syscall(SYS_ioctl, fd, TCGETS, &mode, 0, 0) == 0;
}

static bool is_pipe(int fd)
{
    struct statx status;
    return !syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &status) &&
           (status.stx_mode & S_IFMT) == S_IFIFO;
}

static void reopen(int fd)
{
    char path[] = "/proc/self/fd/N";
    path[sizeof path - 2] = (char)('0' + fd);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_PATH || (!is_pipe(fd) && !is_terminal(fd)))
        return;
    /* O_NONBLOCK: opening a named pipe without a process at the other end would block. */
    int reopened = openat(AT_FDCWD, path, (flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (reopened < 0)
        return;
    if (!fcntl(reopened, F_SETFL, flags))
        syscall(SYS_dup3, reopened, fd, 0, 0, 0);
    close(reopened);
}

void un_own_stdio(void)
{
    for (int fd = 0; fd < 3; fd++)
        reopen(fd);
}
