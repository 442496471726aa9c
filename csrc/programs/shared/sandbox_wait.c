#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <poll.h>
#include <sys/wait.h>

void sandbox_wait_begin(struct sandbox_wait *wait)
{
    for (int i = 0; i < SANDBOX_WAIT_FDS; i++)
        wait->enders[i] = -1;
    wait->signals = -1;
    wait->directory = AT_FDCWD;
    wait->oom_file = NULL;
    oom_watch_begin(&wait->oom);
}

pid_t sandbox_read_pid(const char *path)
{
    char text[32];
    return un_read_file(AT_FDCWD, path, text, sizeof text) < 0 ? 0 : (pid_t)strtol(text, NULL, 10);
}

void sandbox_write_text(int directory, const char *path, const char *text)
{
    int flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC;
    un_auto_close int fd = openat(directory, path, flags, 0600);
    if (fd >= 0)
        un_write_all(fd, text, strlen(text));
}

/* Waits until a child may have exited, or the kernel may have killed a process. Returns false after
 * SIGTERM, or if one of `enders` is readable. */
static bool wait_for_event(const struct sandbox_wait *wait)
{
    struct pollfd fds[SANDBOX_WAIT_FDS + 2] = {
        {.fd = wait->signals, .events = POLLIN},
        {.fd = wait->oom.has_events ? wait->oom.fd : -1, .events = POLLPRI},
    };
    bool is_over = false;
    for (int i = 0; i < SANDBOX_WAIT_FDS; i++)
        fds[i + 2] = (struct pollfd){.fd = wait->enders[i], .events = POLLIN};
    while (poll(fds, SANDBOX_WAIT_FDS + 2, oom_watch_interval(&wait->oom)) < 0 && errno == EINTR)
        continue;
    for (int i = 0; i < SANDBOX_WAIT_FDS; i++)
        is_over = is_over || fds[i + 2].revents;
    return !sandbox_read_signals(wait->signals) && !is_over;
}

/* Writes a description of an OOM kill into a file. Returns the exit status. */
static int report_oom_kill(const struct sandbox_wait *wait)
{
    char text[OOM_TEXT_MAX];
    oom_describe(text, sizeof text);
    if (wait->oom_file)
        sandbox_write_text(wait->directory, wait->oom_file, text);
    return SANDBOX_KILLED;
}

/* Returns the exit status of this process for a wait status of a child. */
static int judge_end(const struct sandbox_wait *wait, int wait_status)
{
    int status = un_exit_status_of(wait_status);
    return status && oom_watch_is_new(&wait->oom) ? report_oom_kill(wait) : status;
}

int sandbox_wait_for_exit(struct sandbox_wait *wait, pid_t pid, bool others, pid_t parent)
{
    int status;
    do {
        pid_t ended;
        while ((ended = waitpid(others ? -1 : pid, &status, WNOHANG)) > 0)
            if (ended == pid)
                return judge_end(wait, status);
        if (ended < 0 && errno == ECHILD)
            return SANDBOX_FAILED;
        if (oom_watch_look(&wait->oom, parent))
            return report_oom_kill(wait);
    } while (wait_for_event(wait));
    return SANDBOX_KILLED;
}
