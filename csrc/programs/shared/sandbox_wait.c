#include "base/base.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

void sandbox_wait_init(struct sandbox_wait *wait, char *const *command)
{
    sigset_t handled;
    sigemptyset(&handled);
    sigaddset(&handled, SIGTERM);
    sigaddset(&handled, SIGPIPE);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    for (int i = 0; i < SANDBOX_WAIT_FDS; i++)
        wait->end_fds[i] = -1;
    wait->signals = -1;
    wait->network = -1;
    wait->directory = AT_FDCWD;
    wait->end_file = NULL;
    wait->command = command;
    sandbox_group_init(&wait->group);
}

int sandbox_wait_begin(struct sandbox_wait *wait, const struct un_limits *limits,
                       const char *directory, bool shares_mounts, int fd)
{
    struct un_error err;
    if (sandbox_group_make(&wait->group, limits, &err) ||
        sandbox_show_limits(directory, limits, shares_mounts, &err))
        return error_send(fd, &err);
    oom_watch_begin(&wait->oom, &wait->group);
    limit_watch_begin(&wait->limits, limits);
    return limit_watch_idle(&wait->limits, directory, &err) ? error_send(fd, &err) : 0;
}

pid_t sandbox_read_pid(const char *path)
{
    char text[32];
    return un_read_file(AT_FDCWD, path, text, sizeof text) < 0 ? 0 : (pid_t)strtol(text, NULL, 10);
}

static int create_file(int directory, const char *path)
{
    return openat(directory, path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
}

void sandbox_write_text(int directory, const char *path, const char *text)
{
    un_auto_close int fd = create_file(directory, path);
    if (fd >= 0)
        un_write_all(fd, text, strlen(text));
}

/* Waits until a signal arrives, a descriptor has an event, or a check of a limit is due. Returns
 * false after SIGTERM, or if one of wait->end_fds is readable. */
static bool wait_for_event(const struct sandbox_wait *wait)
{
    struct pollfd fds[SANDBOX_WAIT_FDS + 3] = {
        {.fd = wait->signals, .events = POLLIN},
        {.fd = wait->oom.has_events ? wait->oom.fd : -1, .events = POLLPRI},
        {.fd = wait->network, .events = POLLIN},
    };
    bool is_over = false;
    int oom = oom_watch_interval(&wait->oom), limit = limit_watch_interval(&wait->limits);
    int timeout_ms = oom < 0 || (limit >= 0 && limit < oom) ? limit : oom;
    for (int i = 0; i < SANDBOX_WAIT_FDS; i++)
        fds[i + 3] = (struct pollfd){.fd = wait->end_fds[i], .events = POLLIN};
    while (poll(fds, SANDBOX_WAIT_FDS + 3, timeout_ms) < 0 && errno == EINTR)
        continue;
    for (int i = 0; i < SANDBOX_WAIT_FDS; i++)
        is_over = is_over || fds[i + 3].revents;
    return !(fds[0].revents && sandbox_read_signals(wait->signals)) && !is_over;
}

/* Writes the reason why the sandbox was ended to the file wait->end_file, unless that is NULL.
 * Returns the exit status of this process. */
static int report_end(const struct sandbox_wait *wait, const struct un_end *end)
{
    un_auto_close int fd = wait->end_file ? create_file(wait->directory, wait->end_file) : -1;
    if (fd >= 0)
        end_write(fd, end);
    return end_status(end);
}

static int report_oom_kill(const struct sandbox_wait *wait)
{
    struct un_end end;
    oom_describe(&wait->group, &wait->limits.limits, &end);
    return report_end(wait, &end);
}

/* Returns the value of runsc's option `name`, such as "--log=", or "" if runsc's command line lacks
 * the option. */
static const char *option_of(const struct sandbox_wait *wait, const char *name)
{
    for (char *const *word = wait->command; *word; word++)
        if (un_begins(*word, name))
            return *word + strlen(name);
    return "";
}

/* Returns whether gVisor's kernel has crashed with a known cause. If so, describes the cause in
 * `end`. */
static bool describe_crash(const struct sandbox_wait *wait, struct un_end *end)
{
    struct un_runsc_logs logs;
    struct un_runsc_failure failure = {.has_cause = false};
    struct un_error err;
    if (un_runsc_logs_read(option_of(wait, "--log="), option_of(wait, "--panic-log="),
                           option_of(wait, "--debug-log="), &logs))
        return false;
    bool is_known = logs.crash && !logs.has_ended &&
                    !un_runsc_explain(logs.crash, "", "", 0, "/proc", &failure, &err) &&
                    failure.has_cause;
    un_runsc_logs_free(&logs);
    if (!is_known)
        return false;
    *end = (struct un_end){.reason = failure.cause.id};
    snprintf(end->text, sizeof end->text, "gVisor's kernel crashed: %s", failure.cause.why);
    return true;
}

/* Returns the exit status of this process for the wait status of the sandbox's main process.
 * Reports a limit or a crash that explains the wait status. */
static int judge_end(const struct sandbox_wait *wait, int wait_status)
{
    struct un_end end;
    int status = un_exit_status_of(wait_status);
    if (status && limit_watch_judge(&wait->limits, sandbox_group_refused(&wait->group),
                                    option_of(wait, "--log="), option_of(wait, "--panic-log="),
                                    option_of(wait, "--debug-log="), &end))
        return report_end(wait, &end);
    if (oom_watch_explains(&wait->oom, status))
        return report_oom_kill(wait);
    return status && describe_crash(wait, &end) ? report_end(wait, &end) : status;
}

/* Reports that wait4(2) has failed, so that the exit status of the sandbox stays unknown. */
static int report_wait_error(const struct sandbox_wait *wait)
{
    struct un_end end = {.reason = "exit-status-unknown"};
    snprintf(end.text, sizeof end.text,
             "the sandbox was ended, and its exit status is not known: wait4: %s", strerror(errno));
    return report_end(wait, &end);
}

int sandbox_wait_for_exit(struct sandbox_wait *wait, pid_t pid, bool others, pid_t parent)
{
    int status;
    struct un_end end;
    /* If `others` is set, the sandbox has started, so the idle time begins now. */
    if (others)
        wait->limits.active = un_now_ms();
    do {
        pid_t ended;
        while ((ended = waitpid(others ? -1 : pid, &status, WNOHANG)) > 0)
            if (ended == pid)
                return judge_end(wait, status);
        if (ended < 0)
            return report_wait_error(wait);
        if (oom_watch_check(&wait->oom, parent))
            return report_oom_kill(wait);
        if (limit_watch_check(&wait->limits, parent, &end))
            return report_end(wait, &end);
        if (wait->network >= 0 && un_wait_readable(wait->network, 0) > 0) {
            network_describe_end(&end);
            return report_end(wait, &end);
        }
    } while (wait_for_event(wait));
    return SANDBOX_KILLED;
}
