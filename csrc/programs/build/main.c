/*
 * usernsctl-build [LAUNCH SOCKET FD...]
 *
 * Builds the root filesystem that all sandboxes of a usernsctl.SandboxHost share. Runs in the
 * namespaces of that SandboxHost. LAUNCH is a descriptor of the launch file. Each FD is a
 * descriptor of a host file, in the order of the launch's `source` records. The program sends a
 * descriptor of the directory for the sandboxes' files over SOCKET.
 *
 * On success, prints strings, each terminated by NUL: the path of the tmpfs that contains all
 * created files; "1" if a process in a new PID namespace can mount proc on /proc, otherwise "0";
 * and the source and destination of each bind mount.
 *
 * On failure, prints the fields of the error, each terminated by NUL: step, errno, cause, detail,
 * path and remedy. The last four may be empty. Then exits with status 1.
 *
 * Without arguments, the program only keeps its namespaces alive, until it is killed or reads end
 * of file from standard input.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "sys/sys.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

static int read_fds(char **words, int count, int *fds)
{
    for (int i = 0; i < count; i++) {
        uint64_t number;
        const char *end = un_number_read(words[i], INT_MAX, &number);
        if (!end || *end || fcntl((int)number, F_SETFD, FD_CLOEXEC))
            return -1;
        fds[i] = (int)number;
    }
    return 0;
}

static void put(const char *word)
{
    fputs(word ? word : "", stdout);
    putchar('\0');
}

static int print_build_failure(const struct un_launch *launch, struct un_error *err)
{
    un_diagnose(err, "/proc");
    printf("%d%c%d%c", err->step, '\0', err->errnum, '\0');
    put(err->cause);
    put(err->detail);
    put(launch ? un_launch_filename(launch) : NULL);
    put(launch ? un_launch_remedy(launch) : NULL);
    return 1;
}

static int mount_proc(void *arg)
{
    struct un_error err;
    struct un_setup setup;
    (void)arg;
    un_setup_init(&setup);
    setup.propagation = MS_PRIVATE;
    setup.mount_proc = "/proc";
    return un_setup_apply(&setup, &err) ? 1 : 0;
}

/* Returns whether a child in a new PID namespace can mount proc on /proc, as usernsctl-init does.
 * The kernel denies this mount if other mounts cover parts of the current /proc, as in a
 * container. */
static bool can_mount_proc(void)
{
    int status;
    struct sigaction ignored;
    struct un_clone clone = {
        .flags = CLONE_NEWPID | CLONE_NEWNS, .exit_signal = SIGCHLD, .run = mount_proc};
    un_default_sigchld(&ignored);
    return !un_clone(&clone) && waitpid(clone.pid, &status, 0) == clone.pid && !status;
}

static void print_result(const struct un_launch *launch)
{
    put(launch->marks.scratch);
    put(can_mount_proc() ? "1" : "0");
    for (size_t i = 0; i < launch->bind_count; i++) {
        put(launch->bind[i].source);
        put(launch->bind[i].destination);
    }
}

static int build_and_send(struct un_launch *launch, int socket, const int *fds)
{
    struct un_error err;
    if (un_launch_open(launch, fds, &err) || un_launch_build(launch, NULL, &err))
        return print_build_failure(launch, &err);
    int boxes = openat(launch->root.scratch, "boxes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (boxes < 0 || !un_send(socket, "+", 1, &boxes, 1)) {
        perror("usernsctl-build: can't open or send the directory for sandboxes");
        return 2;
    }
    print_result(launch);
    return 0;
}

static int wait_for_end(void)
{
    char ignored[64];
    while (un_read_all(STDIN_FILENO, ignored, sizeof ignored) > 0)
        continue;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 1)
        return wait_for_end();
    struct stat status;
    struct un_launch *launch = NULL;
    struct un_error err;
    int *fds = calloc((size_t)argc + 1, sizeof *fds);
    if (!fds || argc < 3 || read_fds(argv + 1, argc - 1, fds) || fstat(fds[0], &status)) {
        fputs("usage: usernsctl-build LAUNCH SOCKET FD...\n", stderr);
        return 2;
    }
    size_t size = (size_t)status.st_size;
    void *words = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fds[0], 0);
    if (words == MAP_FAILED) {
        perror("usernsctl-build: can't map the launch into memory");
        return 2;
    }
    if (un_launch_parse(words, size, &launch, &err))
        return print_build_failure(NULL, &err);
    return build_and_send(launch, fds[1], fds + 2);
}
