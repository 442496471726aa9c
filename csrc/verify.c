/*
 * usernsctl-verify: what a sandbox runs first. It makes sure that the kernel it runs on is gVisor,
 * then becomes the payload.
 *
 * It works in any root filesystem, and as any user: it is linked statically, allocates nothing, and
 * asks the kernel itself, so that neither a mounted /proc nor a file can lie to it.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    EXIT_NOT_PROVEN = 125,
    EXIT_NOT_EXECUTABLE = 126,
    EXIT_NOT_FOUND = 127,
};

/* klogctl(3): read what is in the kernel's log. gVisor grants that to every user. */
enum { SYSLOG_ACTION_READ_ALL = 3 };

/* Far more than gVisor's log, which is a dozen lines. */
enum { LOG_SIZE = 8192 };

/* gVisor has reported this build since 2018; only the release before it has changed. It is what
 * /proc/version shows, too. No Linux kernel of that minute is in use. */
static const char GVISOR_BUILD[] = "#1 SMP Sun Jan 10 15:06:54 PST 2016";

/* The first line of gVisor's kernel log (gvisor.dev, "dmesg" in the quick start). The lines after
 * it are drawn by lot. */
static const char GVISOR_BOOT[] = "Starting gVisor...";

static const char DEFAULT_PATH[] = "/usr/local/bin:/usr/bin:/bin";

extern char **environ;

static bool runs_on_gvisor(void)
{
    struct utsname kernel;
    if (uname(&kernel) != 0 || strcmp(kernel.version, GVISOR_BUILD) != 0)
        return false;

    char log[LOG_SIZE];
    const int length = klogctl(SYSLOG_ACTION_READ_ALL, log, LOG_SIZE - 1);
    if (length < 0)
        return false;
    log[length] = '\0';
    return strstr(log, GVISOR_BOOT) != NULL;
}

static int complain(int status, const char *command, const char *why)
{
    (void)fprintf(stderr, "usernsctl: %s: %s\n", command, why);
    return status;
}

/* Returns only if `path` could not be executed. */
static int become(const char *path, char **argv)
{
    (void)execve(path, argv, environ);
    if (errno == ENOENT)
        return complain(EXIT_NOT_EXECUTABLE, path,
                        "the interpreter it asks for is not in the sandbox");
    return complain(EXIT_NOT_EXECUTABLE, path, strerror(errno));
}

static bool is_executable_file(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && S_ISREG(file.st_mode) && access(path, X_OK) == 0;
}

/* Looks along PATH as execvp(3) does: the first executable file wins; a file that is there but not
 * executable decides only if no other is found. */
static int find_and_become(char **argv)
{
    const char *const name = argv[0];
    const char *const searched = getenv("PATH");
    bool there = false;

    for (const char *dir = searched != NULL ? searched : DEFAULT_PATH; dir != NULL;) {
        const char *const end = strchr(dir, ':');
        const int length = end != NULL ? (int)(end - dir) : (int)strlen(dir);
        char path[PATH_MAX];
        const int written =
            snprintf(path, sizeof path, "%.*s/%s", length, length > 0 ? dir : ".", name);
        if (written > 0 && written < (int)sizeof path) {
            if (is_executable_file(path))
                return become(path, argv);
            there = there || access(path, F_OK) == 0;
        }
        dir = end != NULL ? end + 1 : NULL;
    }
    if (there)
        return complain(EXIT_NOT_EXECUTABLE, name, "found, but it is not executable");
    return complain(EXIT_NOT_FOUND, name, "not found along PATH in the sandbox");
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return complain(EXIT_NOT_PROVEN, argc > 0 ? argv[0] : "verify", "no command to run");

    if (!runs_on_gvisor())
        return complain(EXIT_NOT_PROVEN, argv[1],
                        "not started: this kernel is not gVisor's (its build and its boot message "
                        "are missing), so what was called as runsc did not make a sandbox");

    char **const command = argv + 1;
    if (strchr(command[0], '/') == NULL)
        return find_and_become(command);
    if (access(command[0], F_OK) != 0)
        return complain(errno == EACCES ? EXIT_NOT_EXECUTABLE : EXIT_NOT_FOUND, command[0],
                        errno == EACCES ? "Permission denied" : "not found in the sandbox");
    return become(command[0], command);
}
