/* Replacing this program by a command. */
#include "base/error.h"
#include "base/path.h"

#include <errno.h>
#include <unistd.h>

static int fail(const char *file, enum un_step step, const char *cause, struct un_error *err)
{
    un_fail_errno(err, step, file);
    err->cause = cause;
    return -1;
}

/* Whether the last execve() failed because there is no such file. It says ENOENT also for a file
 * that is there, but whose interpreter is not. */
static bool is_absent(const char *file)
{
    int errnum = errno;
    bool absent = (errnum == ENOENT || errnum == ENOTDIR) && access(file, F_OK);
    errno = errnum;
    return absent;
}

static int fail_exec(const char *file, struct un_error *err)
{
    if (is_absent(file))
        return fail(file, UN_STEP_LOOKUP, "command-not-found", err);
    if (errno == ENOENT)
        return fail(file, UN_STEP_EXEC, "interpreter-not-found", err);
    if (errno == EACCES || errno == ENOEXEC)
        return fail(file, UN_STEP_EXEC, "command-not-executable", err);
    return fail(file, UN_STEP_EXEC, NULL, err);
}

static void execute(const struct un_command *command, const char *file)
{
    execve(file, (char *const *)command->argv, (char *const *)command->envp);
}

/* As execvp(3) does, but for one thing: a file without "#!" is not handed to a shell. */
static int search(const struct un_command *command, struct un_error *err)
{
    const char *at = command->path ? command->path : UN_DEFAULT_PATH;
    char path[PATH_MAX];
    bool denied = false;

    while (un_next_candidate(&at, command->file, path)) {
        execute(command, path);
        denied = denied || errno == EACCES;
        if (errno != EACCES && !is_absent(path))
            return fail_exec(path, err);
    }
    errno = denied ? EACCES : ENOENT;
    return denied ? fail(command->file, UN_STEP_EXEC, "command-not-executable", err)
                  : fail(command->file, UN_STEP_LOOKUP, "command-not-found", err);
}

int un_exec(const struct un_command *command, struct un_error *err)
{
    /* An empty name is no file's, in no directory. */
    if (*command->file && !un_has_slash(command->file))
        return search(command, err);
    execute(command, command->file);
    return fail_exec(command->file, err);
}
