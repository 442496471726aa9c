/* Replacing this program by a command. */
#include "base/base.h"

/* Returns whether the last execve() failed because there is no such file. It says ENOENT also for a
 * file that is there, but whose interpreter is not. */
static bool is_absent(const char *file)
{
    int errnum = errno;
    bool absent = (errnum == ENOENT || errnum == ENOTDIR) && access(file, F_OK);
    errno = errnum;
    return absent;
}

/* Returns whether the last execve() said EACCES of a file that is there, and not of a directory on
 * the way that this process may not search. */
static bool is_denied(const char *file)
{
    int errnum = errno;
    bool denied = errnum == EACCES && !access(file, F_OK);
    errno = errnum;
    return denied;
}

static int fail_exec(const char *file, struct un_error *err)
{
    return un_fail_errno(err, is_absent(file) ? UN_STEP_LOOKUP : UN_STEP_EXEC, file);
}

static void exec_file(const struct un_command *command, const char *file)
{
    execve(file, (char *const *)command->argv, (char *const *)command->envp);
}

/* As execvp(3) does, but for two things: a file without "#!" is not handed to a shell, and in a
 * directory that this process may not search there is no command, as for shells. */
static int exec_along_path(const struct un_command *command, struct un_error *err)
{
    const char *at = command->path ? command->path : UN_DEFAULT_PATH;
    char path[PATH_MAX];
    bool denied = false;

    while (un_next_candidate(&at, command->file, path)) {
        exec_file(command, path);
        denied = denied || is_denied(path);
        if (errno != EACCES && !is_absent(path))
            return fail_exec(path, err);
    }
    errno = denied ? EACCES : ENOENT;
    return un_fail_errno(err, denied ? UN_STEP_EXEC : UN_STEP_LOOKUP, command->file);
}

int un_exec(const struct un_command *command, struct un_error *err)
{
    /* An empty name is no file's, in no directory. */
    if (*command->file && !un_has_slash(command->file))
        return exec_along_path(command, err);
    exec_file(command, command->file);
    return fail_exec(command->file, err);
}
