/* Tests of un_exec(): searching PATH, and the causes of failures. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Creates a file. make_tree() creates these files and directories in the current directory:
 *   closed/ 0000, a/tool 0644, a/noexec 0644, a/dir/,
 *   b/tool 0755 (a script that exits with status 7),
 *   b/orphan 0755 (a script whose interpreter is missing),
 *   b/garbage 0755 (not a program) */
static void make_file(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    CHECK(fd >= 0);
    CHECK_INT(write(fd, text, strlen(text)), (long long)strlen(text));
    close(fd);
    CHECK_INT(chmod(path, mode), 0);
}

static void make_tree(void)
{
    CHECK_INT(mkdir("a", 0755), 0);
    CHECK_INT(mkdir("b", 0755), 0);
    CHECK_INT(mkdir("a/dir", 0755), 0);
    CHECK_INT(mkdir("closed", 0), 0);
    make_file("a/tool", "", 0644);
    make_file("a/noexec", "", 0644);
    make_file("b/tool", "#!/bin/sh\nexit 7\n", 0755);
    make_file("b/orphan", "#!/no/such/interpreter\n", 0755);
    make_file("b/garbage", "garbage\n", 0755);
}

static void remove_tree(void)
{
    static const char *const files[] = {"a/tool", "a/noexec", "b/tool", "b/orphan", "b/garbage"};
    for (size_t i = 0; i < COUNT(files); i++)
        CHECK_INT(unlink(files[i]), 0);
    CHECK_INT(rmdir("a/dir"), 0);
    CHECK_INT(rmdir("closed"), 0);
    CHECK_INT(rmdir("a"), 0);
    CHECK_INT(rmdir("b"), 0);
}

static const char *const no_environment[] = {NULL};

static void missing_and_not_executable_commands_differ(void)
{
    static char too_long[5000];
    memset(too_long, 'x', sizeof too_long - 1);
    static const struct {
        const char *file;
        const char *path;
        int step;
        int errnum;
        const char *cause; /* id of the expected cause; NULL for none */
    } cases[] = {
        {"missing", "a:b", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"missing", "/no/such/dir", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"missing", "a/noexec:b", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"missing", NULL, UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        /* Only root can search the directory `closed`. */
        {"missing", "closed:a", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"missing", "a:closed", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"noexec", "a:closed", UN_STEP_EXEC, EACCES, "command-not-executable"},
        {"tool", "b/none", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"tool", "", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"", "a:b", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"./missing", "a:b", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"/no/such/tool", NULL, UN_STEP_LOOKUP, ENOENT, "command-not-found"},
        {"a/tool/x", NULL, UN_STEP_LOOKUP, ENOTDIR, "command-not-found"},
        {"noexec", "a:b", UN_STEP_EXEC, EACCES, "command-not-executable"},
        {"dir", "a:b", UN_STEP_EXEC, EACCES, "command-not-executable"},
        {"a/noexec", NULL, UN_STEP_EXEC, EACCES, "command-not-executable"},
        {"b/garbage", NULL, UN_STEP_EXEC, ENOEXEC, "command-not-executable"},
        {"garbage", "a:b", UN_STEP_EXEC, ENOEXEC, "command-not-executable"},
        {"b/orphan", NULL, UN_STEP_EXEC, ENOENT, "interpreter-not-found"},
        {"orphan", "a:b", UN_STEP_EXEC, ENOENT, "interpreter-not-found"},
        {too_long, "a:b", UN_STEP_LOOKUP, ENOENT, "command-not-found"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *const argv[] = {cases[i].file, NULL};
        struct un_command command = {cases[i].file, cases[i].path, argv, no_environment};
        struct un_error err;
        CHECK_INT(un_exec(&command, &err), -1);
        CHECK_TEXT(un_step_name(err.step), un_step_name(cases[i].step));
        CHECK_INT(err.errnum, cases[i].errnum);
        un_diagnose(&err, "/proc");
        CHECK_TEXT(err.cause, cases[i].cause);
        CHECK(strlen(err.detail) < UN_DETAIL_MAX);
    }
}

/* Executes the command in a child process. Returns its exit status, or 99 if un_exec() fails. */
static int status_of(const char *file, const char *path)
{
    const char *const argv[] = {file, NULL};
    struct un_command command = {file, path, argv, no_environment};
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct un_error err;
        un_exec(&command, &err);
        _exit(99);
    }
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void the_first_executable_along_path_is_run(void)
{
    CHECK_INT(status_of("b/tool", NULL), 7);
    CHECK_INT(status_of("tool", "b"), 7);
    /* The search does not end at a file that is not executable, or at a missing directory. */
    CHECK_INT(status_of("tool", "a:b"), 7);
    CHECK_INT(status_of("tool", "/no/such/dir:a/noexec:b"), 7);
    CHECK_INT(status_of("true", NULL), 0);
    CHECK_INT(status_of("false", NULL), 1);
    /* An empty element of PATH means the current directory. The default path has no such
     * element. */
    CHECK_INT(chdir("b"), 0);
    CHECK_INT(status_of("tool", ":/no/such/dir"), 7);
    CHECK_INT(status_of("tool", "/no/such/dir:"), 7);
    CHECK_INT(status_of("tool", NULL), 99);
    CHECK_INT(chdir(".."), 0);
}

int main(void)
{
    char scratch[] = "/tmp/usernsctl-test-XXXXXX";
    CHECK(mkdtemp(scratch) != NULL);
    CHECK_INT(chdir(scratch), 0);
    make_tree();
    missing_and_not_executable_commands_differ();
    the_first_executable_along_path_is_run();
    remove_tree();
    CHECK_INT(chdir("/"), 0);
    CHECK_INT(rmdir(scratch), 0);
}
