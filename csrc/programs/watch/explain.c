#include "explain/explain.h"
#include "base/base.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"
#include "sys/sys.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define FAILED 125

/* The maximum number of further messages to quote if the first one does not show the cause. */
#define MORE_MAX 5

/* The number of processes and threads without which no sandbox of gVisor starts. */
#define SANDBOX_PROCESSES 25

/* Prints the failure in one line, and its cause. */
static void print_failure_line(const struct un_runsc_failure *failure)
{
    fprintf(stderr, "usernsctl: runsc: %s\n", failure->what);
    if (failure->has_cause)
        fprintf(stderr, "  why: %s [%s]\n", failure->cause.why, failure->cause.id);
}

static void print_quoted(const char *text)
{
    char quoted[UN_QUOTED_ROOM];
    un_quote(text, quoted);
    fprintf(stderr, "  runsc also says: %s\n", quoted);
}

/* Prints the last messages and the crash report, except the one already printed. */
static void print_more(const struct un_runsc_words *words)
{
    const char *text = words->messages.bytes;
    for (size_t i = 0; i < words->messages.count; i++, text += strlen(text) + 1)
        if (text != words->told && i + MORE_MAX >= words->messages.count)
            print_quoted(text);
    if (words->crash && words->crash != words->told)
        print_quoted(words->crash);
}

/* Maps config.json. Returns NULL if the file can't be read or is empty. */
static const char *map_config(const char *bundle, size_t *size)
{
    char path[UN_PATH_MAX];
    struct stat status;
    snprintf(path, sizeof path, "%s/config.json", bundle);
    un_auto_close int fd = un_open_regular(path, &status);
    *size = fd < 0 ? 0 : (size_t)status.st_size;
    /* mmap(2) fails for a size of 0. */
    void *text = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    return text == MAP_FAILED ? NULL : text;
}

static int find_explanation(const struct un_runsc_words *words, const char *bundle,
                            const char *limit, struct un_runsc_failure *failure)
{
    struct un_error err;
    size_t size;
    const char *config = map_config(bundle, &size);
    int failed =
        un_runsc_explain(words->told, limit, config, config ? size : 0, "/proc", failure, &err);
    if (failed)
        report_error("usernsctl", &err);
    return failed;
}

static void print_explanation(const struct un_runsc_words *words,
                              const struct un_runsc_failure *failure)
{
    print_failure_line(failure);
    if (!failure->has_cause)
        print_more(words);
    print_remedy(failure->remedy);
    if (!failure->has_cause)
        fputs("  more: usernsctl run --debug-log DIR -- COMMAND; usernsctl explain --debug-log DIR"
              "    # needs the Python package of usernsctl\n",
              stderr);
}

/* Creates a directory at the path of runsc's error log, which marks that the error was reported. */
void explain_no_more(char *const *files)
{
    mkdir(files[ERRORS], 0700);
}

static bool is_told(char *const *files)
{
    struct stat status;
    return !lstat(files[ERRORS], &status) && S_ISDIR(status.st_mode);
}

/* Waits until the watcher closes its end of the pipe, or ends. */
static _Noreturn void wait_for_end_of_pipe(const int ends[2])
{
    char byte;
    close(ends[1]);
    un_read_all(ends[0], &byte, 1);
    _exit(0);
}

/* Returns whether the limits allow fewer processes than a sandbox needs, by starting so many. The
 * kernel has no counter of failures by RLIMIT_NPROC. Both limits count processes and threads alike.
 * The processes end by themselves: a seccomp filter may kill callers of kill(2). */
static bool is_short_of_processes(void)
{
    pid_t child[SANDBOX_PROCESSES];
    size_t count = 0;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return false;
    for (; count < SANDBOX_PROCESSES && (child[count] = fork()) >= 0; count++)
        if (child[count] == 0)
            wait_for_end_of_pipe(ends);
    bool is_short = count < SANDBOX_PROCESSES && errno == EAGAIN;
    un_close_each(ends, 2);
    while (count)
        waitpid(child[--count], NULL, 0);
    return is_short;
}

int explain_runsc(char *const *files, int status, const char *limit)
{
    struct un_runsc_words words;
    struct un_runsc_failure failure;
    int failed = 0;
    if (is_told(files))
        return FAILED;
    if (un_runsc_words_read(files[ERRORS], files[CRASH], files[DEBUG], &words)) {
        perror("usernsctl: runsc");
        return FAILED;
    }
    bool is_command = words.has_ended;
    if (!is_command && !*limit && is_short_of_processes())
        limit = un_limit_cause(UN_LIMIT_PIDS);
    if (!is_command && words.told)
        failed = find_explanation(&words, files[BUNDLE], limit, &failure);
    else if (!is_command)
        un_runsc_explain_silence(status, limit, "/proc", &failure);
    if (!is_command && !failed)
        print_explanation(&words, &failure);
    un_runsc_words_free(&words);
    return is_command ? status : FAILED;
}
