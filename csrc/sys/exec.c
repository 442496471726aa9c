/* Searching PATH for a command and executing the command. */
#include "base/base.h"

/* Returns whether the last execve(2) failed because the file does not exist. ENOENT alone does not
 * prove that, because execve(2) also fails with ENOENT if the file's interpreter is missing. */
static bool is_absent(const char *file)
{
    int errnum = errno;
    bool absent = (errnum == ENOENT || errnum == ENOTDIR) && access(file, F_OK);
    errno = errnum;
    return absent;
}

/* Returns whether the last execve(2) failed with EACCES for a file that exists. EACCES may also
 * mean that a directory in the path can't be searched. */
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

/* Searches command->path for the command and executes it, as execvp(3) does. But a file without
 * "#!" is not passed to a shell, and a directory that can't be searched counts as empty, as in
 * shells. */
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
    /* Reject an empty name, because the search would find the directories in PATH themselves. */
    if (*command->file && !un_has_slash(command->file))
        return exec_along_path(command, err);
    exec_file(command, command->file);
    return fail_exec(command->file, err);
}
