#include "base/base.h"
#include "explain/explain.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

/* Maximum number of bytes read from a file: enough for all messages of one start of runsc, or for
 * the beginning of a crash report. */
#define READ_MAX (1 << 18)
/* Maximum number of bytes read from the end of the debug log: enough for the last line, and for the
 * message waited_for_sandbox and all lines after it. */
#define END_MAX 4096

/* A pattern that matches the last line of runsc's debug log if runsc has exited normally. */
static const char end_line[] =
    "\1A-Z\0011,1;\0010-9\0014,4; \0010-9:.\0011,99; \1 \0010,99;\0010-9\0011,20; "
    "\1A-Za-z0-9_\0011,99;.go:\0010-9\0011,20;] Exiting with status: \0010-9\0011,9;" UN_MATCH_END;

/* runsc logs this message if the sandbox exits before runsc can ask it for the exit status of the
 * command. Then runsc reports the exit status of the sandbox process, which is 128+N if signal N
 * killed the command (runsc/sandbox/sandbox.go, since 2018). */
static const char waited_for_sandbox[] = "Will try waiting on the sandbox process instead.";

/* Beginnings of lines in Go's crash reports. For some errors, a line that explains the error
 * precedes the line that names the error. */
static const char *const crash_lines[] = {"runtime: failed ",
                                          "panic: ", "fatal error: ", "SIG\1A-Z\0011,99;: "};

/* Returns the first READ_MAX bytes of a file, terminated by NUL, or "" if the file can't be opened.
 * The caller must free the result. Returns NULL if memory is exhausted. */
static char *read_beginning(const char *path, size_t *size)
{
    struct stat status;
    char *text = malloc(READ_MAX + 1);
    un_auto_close int fd = text ? un_open_regular(path, &status) : -1;
    ssize_t got = fd >= 0 ? un_read_all(fd, text, READ_MAX) : 0;
    *size = got > 0 ? (size_t)got : 0;
    if (text)
        text[*size] = '\0';
    return text;
}

static bool is_crash_line(const char *line, size_t size)
{
    for (size_t i = 0; i < sizeof crash_lines / sizeof *crash_lines; i++)
        if (un_match_start(crash_lines[i], line, size))
            return true;
    return false;
}

static int read_crash(const char *path, struct un_runsc_logs *logs)
{
    size_t size;
    un_auto_free char *text = read_beginning(path, &size);
    if (!text)
        return -1;
    for (char *line = text, *end; *line; line = end + (*end != '\0')) {
        end = line + strcspn(line, "\n");
        if (!is_crash_line(line, (size_t)(end - line)))
            continue;
        logs->crash = strndup(line, (size_t)(end - line));
        return logs->crash ? 0 : -1;
    }
    return 0;
}

static int read_errors(const char *path, struct un_runsc_logs *logs)
{
    size_t size;
    un_auto_free char *text = read_beginning(path, &size);
    return text ? un_messages_read(text, size, &logs->messages) : -1;
}

/* Writes the path of the debug log of the command `runsc run` to `path`. Returns false if the path
 * is too long. */
static bool own_log(const char *debug, char path[UN_PATH_MAX])
{
    static const char place[] = "%COMMAND%";
    const char *at = strstr(debug, place);
    int before = (int)(at ? at - debug : (ptrdiff_t)strlen(debug));
    return snprintf(path, UN_PATH_MAX, "%.*s%s%s", before, debug, at ? "run" : "",
                    at ? at + sizeof place - 1 : "") < UN_PATH_MAX;
}

/* Parses the wait status of the command in `last`, the last line of runsc's debug log. `before`, of
 * `size` bytes, is the part of the log before that line. Returns false if the status is unknown,
 * because a signal killed the sandbox process. */
static bool read_status(const char *last, const char *before, size_t size, int *status)
{
    uint64_t number = 0;
    un_number_read(strrchr(last, ' ') + 1, INT_MAX, &number);
    *status = (int)number;
    if (!memmem(before, size, waited_for_sandbox, sizeof waited_for_sandbox - 1))
        return true;
    if (WIFEXITED(*status) && WEXITSTATUS(*status) > 128)
        *status = WEXITSTATUS(*status) - 128;
    else if (WIFSIGNALED(*status))
        return false;
    return true;
}

bool un_runsc_has_ended(const char *debug, int *wait_status)
{
    char path[UN_PATH_MAX], text[END_MAX + 1];
    struct stat status;
    un_auto_close int fd = own_log(debug, path) ? un_open_regular(path, &status) : -1;
    if (fd < 0)
        return false;
    off_t from = status.st_size > END_MAX ? status.st_size - END_MAX : 0;
    ssize_t got = pread(fd, text, END_MAX, from);
    if (got <= 0)
        return false;
    size_t size = (size_t)got - (text[got - 1] == '\n');
    text[size] = '\0';
    const char *before = memrchr(text, '\n', size);
    const char *last = before ? before + 1 : text;
    return un_match_start(end_line, last, size - (size_t)(last - text)) &&
           read_status(last, text, (size_t)(last - text), wait_status);
}

bool un_runsc_log_is_full(const char *debug)
{
    char path[UN_PATH_MAX];
    struct stat status;
    struct statvfs filesystem;
    un_auto_close int fd = own_log(debug, path) ? un_open_regular(path, &status) : -1;
    /* A filesystem without a limit reports 0 blocks. */
    return fd >= 0 && !fstatvfs(fd, &filesystem) && filesystem.f_blocks && !filesystem.f_bavail;
}

int un_runsc_logs_read(const char *errors, const char *crash, const char *debug,
                       struct un_runsc_logs *logs)
{
    int wait_status;
    *logs = (struct un_runsc_logs){.has_ended = false};
    if (read_errors(errors, logs) || read_crash(crash, logs)) {
        un_runsc_logs_free(logs);
        return -1;
    }
    logs->has_ended = !logs->crash && un_runsc_has_ended(debug, &wait_status);
    logs->reason = logs->messages.count ? logs->messages.bytes : NULL;
    /* If runsc has logged only one message, that message comes from the runsc process that
     * usernsctl has started, and only says that the sandbox process has exited. So use the crash
     * report instead. */
    if (logs->crash && logs->messages.count <= 1)
        logs->reason = logs->crash;
    return 0;
}

void un_runsc_logs_free(struct un_runsc_logs *logs)
{
    un_messages_free(&logs->messages);
    free(logs->crash);
    logs->crash = NULL;
}
