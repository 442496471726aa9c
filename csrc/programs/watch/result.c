/*
 * Writing the result of the command to a file (--result): a JSON object on one line, with the
 * members of usernsctl.Result.
 *
 * `usernsctl run` has opened the file and its directory before the start. Until the whole result is
 * written, the file has no name (O_TMPFILE), or only a temporary name on a filesystem without
 * O_TMPFILE, so readers never see an incomplete result.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Parses the number of a descriptor, followed by a comma. Returns a pointer to the byte after the
 * comma, or NULL if `text` is malformed. */
static const char *read_fd(const char *text, int *fd)
{
    uint64_t number;
    const char *end = text ? un_number_read(text, INT_MAX, &number) : NULL;
    if (!end || *end != ',')
        return NULL;
    *fd = (int)number;
    return end + 1;
}

bool result_parse(const char *text, struct result_file *file)
{
    const char *at = read_fd(read_fd(text, &file->directory), &file->fd);
    const char *comma = at ? strchr(at, ',') : NULL;
    if (!comma || (size_t)(comma - at) >= sizeof file->temporary || !comma[1])
        return false;
    memcpy(file->temporary, at, (size_t)(comma - at));
    file->name = comma + 1;
    return true;
}

bool result_parse_denied(const char *text, struct result_file *file)
{
    uint64_t number;
    const char *end = un_number_read(text, INT_MAX, &number);
    file->denied = end && !*end ? (int)number : -1;
    return file->denied >= 0;
}

/* Returns the number of connections that the network proxy of the sandbox has denied (--denied), or
 * 0 if there is no proxy or the number can't be read. */
static uint64_t read_denied(const struct result_file *file)
{
    uint64_t count = 0;
    if (file->denied >= 0 && pread(file->denied, &count, sizeof count, 0) != sizeof count)
        return 0;
    return count;
}

/* Adds a JSON member with a number, or with null if `is_known` is not set. */
static void add_number(struct un_text *text, const char *name, bool is_known, double number)
{
    char member[96];
    int length = snprintf(member, sizeof member, ", \"%s\": ", name);
    snprintf(member + length, sizeof member - (size_t)length, is_known ? "%.15g" : "null", number);
    un_text_add(text, member);
}

static double seconds_between(struct timeval from, struct timeval to)
{
    return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_usec - from.tv_usec) / 1e6;
}

/* Adds the resource usage of all reaped descendants. The kernel also counts children that were
 * reaped before this program was executed, so this function subtracts the times of these children;
 * `before` contains them. The maximum resident set size is known only if it is greater than that in
 * `before`. */
static void add_usage(struct un_text *text, const struct rusage *before)
{
    struct rusage usage;
    char member[128];
    if (getrusage(RUSAGE_CHILDREN, &usage))
        return;
    snprintf(member, sizeof member, ", \"rusage\": {\"utime\": %.6f, \"stime\": %.6f",
             seconds_between(before->ru_utime, usage.ru_utime),
             seconds_between(before->ru_stime, usage.ru_stime));
    un_text_add(text, member);
    add_number(text, "maxrss", usage.ru_maxrss > before->ru_maxrss, (double)usage.ru_maxrss);
    un_text_add(text, "}");
}

static void compose(struct un_text *text, const struct watch_result *result, uint64_t denied)
{
    char start[128];
    /* For a timeout, convert the limit and the usage from ms to seconds. */
    double unit = strcmp(result->reason, "timeout") ? 1 : 1000;
    snprintf(start, sizeof start, "{\"status\": %d", result->status);
    un_text_add(text, start);
    add_number(text, "signal", result->signal, result->signal);
    snprintf(start, sizeof start, ", \"reason\": \"%s\"", result->reason);
    un_text_add(text, start);
    add_number(text, "limit", result->limit, (double)result->limit / unit);
    add_number(text, "used", result->used, (double)result->used / unit);
    add_usage(text, &result->before);
    add_number(text, "peak_memory", result->peak, (double)result->peak);
    add_number(text, "denied", true, (double)denied);
    add_number(text, "stdout_truncated", true, (double)result->truncated[0]);
    add_number(text, "stderr_truncated", true, (double)result->truncated[1]);
    un_text_add(text, "}\n");
}

/* Gives a file that has no name its temporary name. Returns 0, or -1 with errno set. */
static int give_name(const struct result_file *file)
{
    char path[UN_FD_PATH_MAX];
    struct stat status;
    if (fstat(file->fd, &status))
        return -1;
    if (status.st_nlink)
        return 0;
    un_fd_path(file->fd, path);
    return linkat(AT_FDCWD, path, file->directory, file->temporary, AT_SYMLINK_FOLLOW);
}

static int write_file(const struct result_file *file, const struct un_text *text)
{
    errno = ENOMEM;
    if (!text->failed && !un_write_all(file->fd, text->bytes, text->length) && !give_name(file) &&
        !renameat(file->directory, file->temporary, file->directory, file->name))
        return 0;
    int errnum = errno;
    /* Remove the temporary name, if there is one. */
    unlinkat(file->directory, file->temporary, 0);
    errno = errnum;
    return -1;
}

/* Reports that the result could not be written, because of the errno `errnum`. */
static void report_lost_result(const struct result_file *file, int errnum)
{
    char path[UN_FD_PATH_MAX], directory[UN_PATH_MAX], message[2 * UN_PATH_MAX];
    ssize_t length = readlink(un_fd_path(file->directory, path), directory, sizeof directory - 1);
    /* Without /proc, only the name of the file is known. */
    directory[length < 0 ? 0 : length] = '\0';
    snprintf(message, sizeof message, "%s%s%s: %s", directory, *directory ? "/" : "", file->name,
             un_errno_text(errnum));
    un_make_printable(message);
    report_message((struct report){.program = "usernsctl",
                                   .step = "result",
                                   .message = message,
                                   .cause = un_cause_of_file_error(errnum)});
}

int result_write(const struct result_file *file, const struct watch_result *result)
{
    struct un_text text = {.bytes = NULL};
    if (!file->name)
        return 0;
    compose(&text, result, read_denied(file));
    int failed = write_file(file, &text);
    if (failed)
        report_lost_result(file, errno);
    un_text_free(&text);
    return failed;
}
