/*
 * usernsctl-verify: the first program of a sandbox. Checks that the kernel is gVisor's, then
 * executes the payload.
 *
 * The program works in any root filesystem, as any user: it needs no libc, and uses system calls
 * only, so that neither a mounted /proc nor a file can fake the result. Without a libc it is two
 * pages long; each page that gVisor has to load delays the payload.
 */
#include "base/base.h"
#include "base/freestanding.h"
#include "programs/shared/shared.h"

#define NOT_PROVEN 125
#define NOT_EXECUTABLE 126
#define NOT_FOUND 127

static long call(long number, long a, long b, long c)
{
    return un_raw_call(number, a, b, c, 0, 0, 0);
}

static size_t text_length(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

static void say(const char *text)
{
    call(__NR_write, STDERR_FILENO, (long)text, (long)text_length(text));
}

static int write_complaint(int status, const char *command, const char *why)
{
    say("usernsctl: ");
    say(command);
    say(": ");
    say(why);
    say("\n");
    return status;
}

static bool file_exists(const char *path)
{
    return call(__NR_faccessat, AT_FDCWD, (long)path, 0) == 0;
}

static long exec_payload(const char *path, char **argv, char **envp)
{
    return -call(__NR_execve, (long)path, (long)argv, (long)envp);
}

static int explain_exec_failure(const char *path, long errnum)
{
    if ((errnum == ENOENT || errnum == ENOTDIR) && !file_exists(path))
        return write_complaint(NOT_FOUND, path, "not found in the sandbox");
    if (errnum == ENOENT)
        return write_complaint(NOT_EXECUTABLE, path, "the interpreter is not in the sandbox");
    if (errnum == EACCES)
        return write_complaint(NOT_EXECUTABLE, path, "not executable");
    if (errnum == ENOEXEC)
        return write_complaint(NOT_EXECUTABLE, path,
                               "neither a program nor a script that begins with #!");
    return write_complaint(NOT_EXECUTABLE, path, "the sandbox's kernel can't execute it");
}

/* Searches and executes the payload. Returns only on failure. */
static int search_payload(char **argv, char **envp, const char *at)
{
    char path[PATH_MAX];
    bool denied = false;
    while (un_next_candidate(&at, argv[0], path)) {
        long errnum = exec_payload(path, argv, envp);
        /* EACCES may also mean that a directory of the path can't be searched. */
        denied = denied || (errnum == EACCES && file_exists(path));
        if (errnum != EACCES && file_exists(path))
            return explain_exec_failure(path, errnum);
    }
    return denied ? explain_exec_failure(argv[0], EACCES)
                  : write_complaint(NOT_FOUND, argv[0], "not found along PATH in the sandbox");
}

/* Has the kernel send SIGALRM to this process, also after execve(2), so that a payload that checks
 * the health of a sandbox does not stay there for ever. */
static void limit_time(void)
{
    const long timer[4] = {0, 0, UN_HEALTH_SECONDS, 0}; /* struct itimerval */
    call(__NR_setitimer, 0 /* ITIMER_REAL */, (long)timer, 0);
}

static int run_payload(int argc, char **argv, char **envp)
{
    const char *path = UN_DEFAULT_PATH;
    if (!un_runs_on_gvisor())
        return write_complaint(NOT_PROVEN, argc < 2 ? "usernsctl-verify" : argv[1], UN_NOT_PROVEN);
    if (argc > 1 && un_begins(argv[1], UN_HEALTH_OPTION) && !argv[1][sizeof UN_HEALTH_OPTION - 1]) {
        limit_time();
        argc--;
        argv++;
        if (argc < 2)
            return 0;
    }
    if (argc < 2)
        return write_complaint(NOT_PROVEN, "usernsctl-verify", "no command to run");
    for (char **variable = envp; *variable; variable++)
        if (un_begins(*variable, "PATH="))
            path = *variable + text_length("PATH=");
    if (*argv[1] && !un_has_slash(argv[1]))
        return search_payload(argv + 1, envp, path);
    return explain_exec_failure(argv[1], exec_payload(argv[1], argv + 1, envp));
}

static void start(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    for (;;)
        call(__NR_exit_group, run_payload(argc, argv, argv + argc + 1), 0, 0);
}
