/*
 * usernsctl-verify: what a sandbox runs first. It makes sure that the kernel it runs on is gVisor,
 * then becomes the payload.
 *
 * It works in any root filesystem, and as any user: it needs no libc, and asks the kernel itself,
 * so that neither a mounted /proc nor a file can lie to it. Without a libc it is also two pages
 * long; each page that gVisor has to bring in delays the payload.
 */
#include "base/freestanding.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/utsname.h>
#include <unistd.h>

#define NOT_PROVEN 125
#define NOT_EXECUTABLE 126
#define NOT_FOUND 127

/* syslog(2): read what is in the kernel's log. gVisor grants that to every user. */
#define SYSLOG_ACTION_READ_ALL 3
/* Far more than gVisor's log, which is a dozen lines. */
#define LOG_SIZE 8192

/* gVisor has reported this build since 2018; only the release before it has changed. It is what
 * /proc/version shows, too. No Linux kernel of that minute is in use. */
static const char gvisor_build[] = "#1 SMP Sun Jan 10 15:06:54 PST 2016";

/* The first line of gVisor's kernel log (gvisor.dev, "dmesg" in the quick start). The lines after
 * it are drawn by lot. */
static const char gvisor_boot[] = "Starting gVisor...";

static long call(long number, long a, long b, long c)
{
    return un_raw_call(number, a, b, c, 0, 0, 0);
}

static size_t length_of(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

/* Whether `text` begins with `start`. */
static bool begins(const char *text, const char *start)
{
    while (*start && *text == *start) {
        text++;
        start++;
    }
    return !*start;
}

static bool contains(const char *text, const char *part)
{
    for (; *text; text++)
        if (begins(text, part))
            return true;
    return false;
}

static void say(const char *text)
{
    call(__NR_write, STDERR_FILENO, (long)text, (long)length_of(text));
}

static int complain(int status, const char *command, const char *why)
{
    say("usernsctl: ");
    say(command);
    say(": ");
    say(why);
    say("\n");
    return status;
}

static bool runs_on_gvisor(void)
{
    struct new_utsname kernel;
    if (call(__NR_uname, (long)&kernel, 0, 0) || !begins(kernel.version, gvisor_build))
        return false;
    char log[LOG_SIZE];
    long length = call(__NR_syslog, SYSLOG_ACTION_READ_ALL, (long)log, LOG_SIZE - 1);
    if (length < 0)
        return false;
    log[length] = '\0';
    return contains(log, gvisor_boot);
}

static bool exists(const char *path)
{
    return call(__NR_faccessat, AT_FDCWD, (long)path, 0) == 0;
}

static long execute(const char *path, char **argv, char **envp)
{
    return -call(__NR_execve, (long)path, (long)argv, (long)envp);
}

static int explain(const char *path, long errnum)
{
    if ((errnum == ENOENT || errnum == ENOTDIR) && !exists(path))
        return complain(NOT_FOUND, path, "not found in the sandbox");
    if (errnum == ENOENT)
        return complain(NOT_EXECUTABLE, path, "the interpreter it asks for is not in the sandbox");
    if (errnum == EACCES)
        return complain(NOT_EXECUTABLE, path, "it is not executable");
    if (errnum == ENOEXEC)
        return complain(NOT_EXECUTABLE, path, "it is no program, nor a script that begins with #!");
    return complain(NOT_EXECUTABLE, path, "the sandbox's kernel can't execute it");
}

/* Only returns if it failed. */
static int search(char **argv, char **envp, const char *at)
{
    char path[PATH_MAX];
    bool denied = false;
    while (un_next_candidate(&at, argv[0], path)) {
        long errnum = execute(path, argv, envp);
        denied = denied || errnum == EACCES;
        if (errnum != EACCES && exists(path))
            return explain(path, errnum);
    }
    return denied ? explain(argv[0], EACCES)
                  : complain(NOT_FOUND, argv[0], "not found along PATH in the sandbox");
}

static int run(int argc, char **argv, char **envp)
{
    const char *path = UN_DEFAULT_PATH;
    if (argc < 2)
        return complain(NOT_PROVEN, "usernsctl-verify", "no command to run");
    if (!runs_on_gvisor())
        return complain(NOT_PROVEN, argv[1],
                        "not started: this kernel is not gVisor's (its build and its boot message "
                        "are missing), so what was called as runsc did not make a sandbox");
    for (char **variable = envp; *variable; variable++)
        if (begins(*variable, "PATH="))
            path = *variable + length_of("PATH=");
    if (*argv[1] && !un_has_slash(argv[1]))
        return search(argv + 1, envp, path);
    return explain(argv[1], execute(argv[1], argv + 1, envp));
}

static void start(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    for (;;)
        call(__NR_exit_group, run(argc, argv, argv + argc + 1), 0, 0);
}
