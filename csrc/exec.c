/* Replacing this program by a command. */
#include "error.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* What execvp(3) searches where PATH is not set: the current directory is not in it. */
#define DEFAULT_PATH "/bin:/usr/bin"

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

/* Joins the directory [start, end) and the name; false if that is too long. */
static bool join(char path[PATH_MAX], const char *start, const char *end, const char *name)
{
    size_t dir = (size_t)(end - start);
    size_t length = strlen(name);
    if (dir + 1 + length >= PATH_MAX)
        return false;
    memcpy(path, start, dir);
    /* An empty entry means the current directory. */
    if (dir)
        path[dir++] = '/';
    memcpy(path + dir, name, length + 1);
    return true;
}

/* As execvp(3) does, but for one thing: a file without "#!" is not handed to a shell. */
static int search(const struct un_command *command, struct un_error *err)
{
    const char *start = command->path ? command->path : DEFAULT_PATH;
    char path[PATH_MAX];
    bool denied = false;

    for (;;) {
        const char *end = strchrnul(start, ':');
        if (join(path, start, end, command->file)) {
            execute(command, path);
            denied = denied || errno == EACCES;
            if (errno != EACCES && !is_absent(path))
                return fail_exec(path, err);
        }
        if (!*end)
            break;
        start = end + 1;
    }
    errno = denied ? EACCES : ENOENT;
    return denied ? fail(command->file, UN_STEP_EXEC, "command-not-executable", err)
                  : fail(command->file, UN_STEP_LOOKUP, "command-not-found", err);
}

int un_exec(const struct un_command *command, struct un_error *err)
{
    /* An empty name is no file's, in no directory. */
    if (*command->file && !strchr(command->file, '/'))
        return search(command, err);
    execute(command, command->file);
    return fail_exec(command->file, err);
}
