/* Making the open file descriptions of standard input, output and error private. */
#include "sys/sys.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_pipe(int fd)
{
    struct stat status;
    return !fstat(fd, &status) && S_ISFIFO(status.st_mode);
}

static void reopen(int fd)
{
    char path[] = "/proc/self/fd/N";
    path[sizeof path - 2] = (char)('0' + fd);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_PATH || (!is_pipe(fd) && !isatty(fd)))
        return;
    /* Use O_NONBLOCK: otherwise, open(2) of a named pipe would block if no process has the other
     * end open. */
    int reopened = openat(AT_FDCWD, path, (flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (reopened < 0)
        return;
    if (!fcntl(reopened, F_SETFL, flags))
        dup3(reopened, fd, 0);
    close(reopened);
}

void un_own_stdio(void)
{
    for (int fd = 0; fd < 3; fd++)
        reopen(fd);
}
