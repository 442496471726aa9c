#include "explain/explain.h"
#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"
#include "sys/sys.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define FAILED 125

/* Maximum number of additional messages of runsc to quote if the first message does not show the
 * cause. */
#define MORE_MAX 5

static void add_quoted(struct un_text *text, const char *message)
{
    char quoted[UN_QUOTED_ROOM];
    un_quote(message, quoted);
    un_text_add(text, "runsc also says: ");
    un_text_add(text, quoted);
    un_text_add(text, "\n");
}

/* Adds runsc's last messages and its crash report to `text`, except for the message that the error
 * quotes already. */
static void add_more(struct un_text *text, const struct un_runsc_logs *logs)
{
    const char *message = logs->messages.bytes;
    for (size_t i = 0; message && i < logs->messages.count; i++, message += strlen(message) + 1)
        if (message != logs->reason && i + MORE_MAX >= logs->messages.count)
            add_quoted(text, message);
    if (logs->crash && logs->crash != logs->reason)
        add_quoted(text, logs->crash);
}

/* Maps the bundle's config.json into memory, and stores its size in *size. Returns NULL if the file
 * can't be read or is empty. */
static const char *map_config(const char *bundle, size_t *size)
{
    char path[UN_PATH_MAX];
    struct stat status;
    snprintf(path, sizeof path, "%s/config.json", bundle);
    un_auto_close int fd = un_open_regular(path, &status);
    if (fd < 0 || !status.st_size)
        return NULL;
    *size = (size_t)status.st_size;
    void *text = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    return text == MAP_FAILED ? NULL : text;
}

static int find_explanation(const struct un_runsc_logs *logs, const char *bundle, const char *limit,
                            struct un_runsc_failure *failure)
{
    struct un_error err;
    size_t size = 0;
    const char *config = map_config(bundle, &size);
    int failed =
        un_runsc_explain(logs->reason, limit, config, config ? size : 0, "/proc", failure, &err);
    if (failed)
        report_error("usernsctl", &err);
    return failed;
}

static void report_failure_of_runsc(const struct un_runsc_logs *logs,
                                    const struct un_runsc_failure *failure)
{
    struct un_text details = {.bytes = NULL};
    struct report report = {.program = "usernsctl",
                            .step = "runsc",
                            .message = failure->what,
                            .remedy = failure->remedy};
    if (failure->has_cause) {
        report.cause = failure->cause.id;
        report.why = failure->cause.why;
    } else {
        add_more(&details, logs);
        report.details = un_text_end(&details);
        report.more = "usernsctl run --debug-log DIR -- CMD; usernsctl explain --debug-log DIR"
                      "    # needs Python";
    }
    report_message(report);
    un_text_free(&details);
}

/* Creates a directory at the path of runsc's error log. From this directory, the watcher learns
 * that the error was reported. */
void mark_reported(char *const *files)
{
    mkdir(files[ERRORS], 0700);
}

static bool is_reported(char *const *files)
{
    struct stat status;
    return !lstat(files[ERRORS], &status) && S_ISDIR(status.st_mode);
}

/* Waits for end of file on a pipe, that is, until the watcher closes the write end or exits. */
static _Noreturn void wait_for_end_of_pipe(const int ends[2])
{
    char byte;
    close(ends[1]);
    un_read_all(ends[0], &byte, 1);
    _exit(0);
}

/* Returns whether RLIMIT_NPROC or pids.max allows fewer processes and threads than a sandbox needs.
 * Forks that many processes to find out, because the kernel does not count failures due to
 * RLIMIT_NPROC. These processes exit by themselves, because a seccomp filter may kill a process
 * that calls kill(2). */
static bool is_short_of_processes(void)
{
    pid_t child[SANDBOX_PROCESSES];
    size_t count = 0;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return false;
    for (; count < SANDBOX_PROCESSES && (child[count] = un_fork()) >= 0; count++)
        if (child[count] == 0)
            wait_for_end_of_pipe(ends);
    bool is_short = count < SANDBOX_PROCESSES && errno == EAGAIN;
    un_close_each(ends, 2);
    while (count)
        waitpid(child[--count], NULL, 0);
    return is_short;
}

/* Reports that the command's exit status is unknown, because runsc could not log the status. */
static void report_full_log(void)
{
    report_message((struct report){
        .program = "usernsctl",
        .step = "runsc",
        .message = "the command's exit status could not be logged: --debug-log is on a full disk",
        .cause = "disk-full"});
}

int explain_runsc(char *const *files, int status, const char *limit, bool *is_lost)
{
    struct un_runsc_logs logs;
    struct un_runsc_failure failure;
    int failed = 0;
    *is_lost = false;
    if (is_reported(files))
        return FAILED;
    if (un_runsc_logs_read(files[ERRORS], files[CRASH], files[DEBUG], &logs)) {
        report_message((struct report){
            .program = "usernsctl", .step = "runsc", .message = un_errno_text(errno)});
        return FAILED;
    }
    bool is_command = logs.has_ended;
    /* A message, a reached limit or a signal explains a log without the exit status better. */
    if (!is_command && !logs.reason && !*limit && status < UN_RUNSC_FAILED &&
        un_runsc_log_is_full(files[DEBUG])) {
        *is_lost = true;
        report_full_log();
        un_runsc_logs_free(&logs);
        return FAILED;
    }
    if (!is_command && !*limit && is_short_of_processes())
        limit = un_limit_cause(UN_LIMIT_PIDS);
    if (!is_command && logs.reason)
        failed = find_explanation(&logs, files[BUNDLE], limit, &failure);
    else if (!is_command)
        un_runsc_explain_silence(status, limit, "/proc", &failure);
    if (!is_command && !failed)
        report_failure_of_runsc(&logs, &failure);
    un_runsc_logs_free(&logs);
    return is_command ? status : FAILED;
}
