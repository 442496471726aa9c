/* Fake runsc. Prints IDENTITY. Prints "secret" for each file named `secret` that the sandbox
 * would see in its root filesystem or in a bind mount, and if config.json contains "SECRET".
 * Creates a file in the directory of each option --root and --debug-log. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IDENTITY
#define IDENTITY "ours"
#endif

static const char *const shown[] = {"", "/opt", "/opt/inner", "/opt/inner/deep"};
static char config[1 << 20];

static void look(const char *directory)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/secret", directory);
    if (!access(path, F_OK))
        puts("secret");
}

static void leave(const char *directory)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/left-by-runsc", directory);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    if (fd >= 0)
        close(fd);
}

/* Calls `see` with each string that config.json contains after `name`, a key with quotes and
   colon. */
static void each(const char *name, void (*see)(const char *))
{
    char value[4096];
    for (const char *at = config; (at = strstr(at, name)); at += strlen(name))
        if (sscanf(at + strlen(name), " \"%4095[^\"]\"", value) == 1)
            see(value);
}

/* Searches the directories in `shown`, in a child whose root directory is `root`. */
static void look_in_root(const char *root)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (chroot(root) || chdir("/"))
            perror("chroot");
        else
            for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++)
                look(shown[i]);
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

/* Writes the log line with which runsc reports its exit. Without this line, the watcher would
 * report a failure. */
static void end(const char *log)
{
    char path[4096];
    int before = (int)strcspn(log, "%");
    snprintf(path, sizeof path, "%.*srun.txt", before, log);
    FILE *file = fopen(path, "w");
    if (!file)
        return;
    fputs("I1125 01:43:37.998166   66184 main.go:222] Exiting with status: 0\n", file);
    fclose(file);
}

int main(int argc, char **argv)
{
    char path[4096];
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--version"))
            return puts("runsc version stand-in"), 0;
        if (!strncmp(argv[i], "--root=", 7))
            leave(argv[i] + 7);
        if (!strncmp(argv[i], "--debug-log=", 12)) {
            leave(argv[i] + 12);
            end(argv[i] + 12);
        }
        if (!strncmp(argv[i], "--bundle=", 9)) {
            snprintf(path, sizeof path, "%s/config.json", argv[i] + 9);
            FILE *file = fopen(path, "r");
            if (file) {
                fread(config, 1, sizeof config - 1, file);
                fclose(file);
            }
        }
    }
    puts(IDENTITY);
    each("\"path\":", look_in_root);
    each("\"source\":", look);
    if (strstr(config, "SECRET"))
        puts("secret");
    return 0;
}
