/*
 * `usernsctl-watch --health [COMMAND...]`: checking whether the sandbox of this container works.
 *
 * The container engine starts this program as a health check in the container, outside of gVisor.
 * The program finds the oldest watcher (a usernsctl-watch that runs a sandbox) with the uid and the
 * control group of this process, because newer sandboxes in the container may be short-lived. The
 * program joins the namespaces of that watcher, and runs COMMAND in the watcher's sandbox by `runsc
 * exec`, after usernsctl-verify has checked the kernel. Without COMMAND, usernsctl-verify runs
 * alone.
 *
 * So a sandbox is healthy if gVisor answers, and if a program in the sandbox can be started and
 * succeeds before the deadline. A payload can't affect the health check of another sandbox.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"
#include "sys/sys.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>

#define UNHEALTHY 1
/* Exit status of a COMMAND that was killed by SIGALRM from the timer that usernsctl-verify sets. */
#define TOO_LATE (128 + SIGALRM)
/* Timeout in ms for gVisor's answer. The timeout is two seconds longer than the timeout of the
 * command, so that a slow command is not taken for a hanging sandbox. */
#define ANSWER_MS ((UN_HEALTH_SECONDS + 2) * 1000)
#define SELF "usernsctl-watch"
#define VERIFIER "/.usernsctl-verify"
/* Size in bytes of the buffer for a watcher's arguments, which usually are far shorter. */
#define ARGS_SIZE 32768
/* Maximum number of a watcher's arguments. */
#define ARGS_MAX 256
/* Size in bytes of a buffer for the content of /proc/PID/cgroup. */
#define GROUP_SIZE 4096
/* Maximum number of elements that compose() adds to the arguments of the command, with the NULL. */
#define OWN_ARGS 9

/* A running watcher, that is, a usernsctl-watch that runs a sandbox. `proc` keeps referring to the
 * same process, even if its pid is reused. */
struct watcher {
    int proc; /* O_PATH descriptor of /proc/PID, or -1 */
    uint64_t started;
    char text[ARGS_SIZE];
    char *argv[ARGS_MAX + 1];
    struct watch_args args;
};

static int fail_unhealthy(const char *what, const char *cause)
{
    report_message((struct report){
        .program = "in-gvisor", .step = "unhealthy", .message = what, .cause = cause});
    return UNHEALTHY;
}

/* Reads the start time of a process (field 22 in proc_pid_stat(5)), in clock ticks since boot. */
static bool read_start(int proc, uint64_t *started)
{
    char text[1024];
    const char *at = un_proc_stat(proc, "stat", text, sizeof text);
    for (int field = 3; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at && un_number_read(at + 1, UINT64_MAX, started);
}

/* Reads the arguments of the process to which of->proc refers. Returns whether the process is a
 * watcher. */
static bool read_args(struct watcher *of)
{
    int argc = 0;
    ssize_t length = un_read_file(of->proc, "cmdline", of->text, sizeof of->text);
    if (length <= 0 || length >= (ssize_t)sizeof of->text - 1 || of->text[length - 1])
        return false;
    for (char *at = of->text; at < of->text + length; at += strlen(at) + 1) {
        if (argc == ARGS_MAX)
            return false;
        of->argv[argc++] = at;
    }
    of->argv[argc] = NULL;
    const char *slash = strrchr(of->text, '/');
    return slash && !strcmp(slash + 1, SELF) && argc > 2 &&
           split_watch_args(argc, of->argv, &of->args) && *of->args.program == '/';
}

static bool is_in_group(int proc, const char *group)
{
    char other[GROUP_SIZE];
    return un_read_file(proc, "cgroup", other, sizeof other) >= 0 && !strcmp(other, group);
}

/* Opens the directory `name` in /proc. Returns whether the process is a watcher of this user in the
 * control group `group`. */
static bool open_watcher(int all, const char *name, const char *group, struct watcher *of)
{
    struct stat status;
    /* The descriptor `all` of /proc is valid, because dirfd(3) does not fail for an open directory.
     * NOLINTNEXTLINE(clang-analyzer-unix.StdCLibraryFunctions) */
    of->proc = openat(all, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (of->proc >= 0 && !fstat(of->proc, &status) && status.st_uid == geteuid() &&
        is_in_group(of->proc, group) && read_args(of) && read_start(of->proc, &of->started))
        return true;
    un_close_quietly(of->proc);
    of->proc = -1;
    return false;
}

/* Finds the oldest watcher, using the buffers `found` and `other`. Returns the buffer with that
 * watcher, or NULL if no watcher runs. */
static struct watcher *find_watcher(struct watcher *found, struct watcher *other)
{
    char group[GROUP_SIZE];
    const struct dirent *entry;
    if (un_read_file(AT_FDCWD, "/proc/self/cgroup", group, sizeof group) < 0)
        return NULL;
    DIR *all = opendir("/proc");
    found->proc = -1;
    while (all && (entry = readdir(all))) {
        if (strspn(entry->d_name, "0123456789") != strlen(entry->d_name) ||
            !open_watcher(dirfd(all), entry->d_name, group, other))
            continue;
        if (found->proc < 0 || other->started < found->started) {
            struct watcher *better = other;
            other = found;
            found = better;
        }
        un_close_quietly(other->proc);
        other->proc = -1;
    }
    if (all)
        closedir(all);
    return found->proc < 0 ? NULL : found;
}

/* Joins the user and mount namespaces in which the watcher has started runsc. Returns 0, or -1 with
 * the error in `err`. */
static int join_watcher(const struct watcher *of, struct un_error *err)
{
    struct un_namespace joined;
    for (int kind = 0; kind < UN_NS_COUNT; kind++)
        joined.fd[kind] = -1;
    joined.fd[UN_NS_USER] = openat(of->proc, "ns/user", O_RDONLY | O_CLOEXEC);
    joined.fd[UN_NS_MOUNT] = openat(of->proc, "ns/mnt", O_RDONLY | O_CLOEXEC);
    int failed = joined.fd[UN_NS_USER] < 0 || joined.fd[UN_NS_MOUNT] < 0
                     ? un_fail_errno(err, UN_STEP_SETNS, "can't open the namespaces of " SELF)
                     : un_namespace_join(&joined, err);
    un_close_each(joined.fd, UN_NS_COUNT);
    return failed;
}

/* Opens the runsc that the watcher has started, and stores in `path` a path by which this process
 * can execute that runsc. The watcher's own path of runsc can't be used if it refers to one of the
 * watcher's descriptors. Returns a descriptor, or -1 with errno set. */
static int open_runsc(const struct watcher *of, char path[UN_PATH_MAX])
{
    static const char own[] = "/proc/self/fd/";
    char name[UN_PATH_MAX];
    ssize_t length = readlink(of->args.program, path, UN_PATH_MAX - 1);
    path[length < 0 ? 0 : length] = '\0';
    if (strncmp(path, own, sizeof own - 1)) {
        snprintf(path, UN_PATH_MAX, "%s", of->args.program);
        return openat(AT_FDCWD, path, O_PATH | O_CLOEXEC);
    }
    snprintf(name, sizeof name, "fd/%s", path + sizeof own - 1);
    int fd = openat(of->proc, name, O_PATH | O_CLOEXEC);
    if (fd >= 0)
        un_fd_path(fd, path);
    return fd;
}

/* Builds the command line of `runsc exec` in `argv`. Returns false if the command line with which
 * the watcher has started runsc lacks --root. */
static bool compose(const struct watcher *of, char *const *command, const char **argv)
{
    const char *state = NULL, *id = NULL;
    for (char **word = of->args.command; *word; word++) {
        if (un_begins(*word, "--root="))
            state = *word;
        id = *word;
    }
    if (!state)
        return false;
    const char *const fixed[] = {*of->args.command, "--rootless",    state, "exec", id,
                                 VERIFIER,          UN_HEALTH_OPTION};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        *argv++ = fixed[i];
    while (*command)
        *argv++ = *command++;
    *argv = NULL;
    return true;
}

/* Waits for the exit of `runsc exec`, or kills it at the deadline. Returns whether it has exited in
 * time. */
static bool wait_for_exec(int pidfd, siginfo_t *end)
{
    if (un_wait_readable(pidfd, ANSWER_MS) > 0)
        return un_reap(pidfd, end);
    un_kill_and_reap(pidfd, end);
    return false;
}

/* Prints why the sandbox is unhealthy, with the first line of the output of `runsc exec`. Reads
 * that output from the pipe `output`. Returns the exit status. */
static int report_exec(bool in_time, const siginfo_t *end, int output)
{
    char line[UN_QUOTED_MAX + 1], quoted[UN_QUOTED_ROOM], what[UN_QUOTED_ROOM + 128];
    ssize_t length = output < 0 ? -1 : read(output, line, sizeof line - 1);
    line[length < 0 ? 0 : length] = '\0';
    line[strcspn(line, "\n")] = '\0';
    un_quote(line, quoted);
    int status = end->si_code == CLD_EXITED ? end->si_status : 128 + end->si_status;
    if (!in_time)
        snprintf(what, sizeof what, "no answer from the sandbox within %d s", ANSWER_MS / 1000);
    else if (status == TOO_LATE)
        snprintf(what, sizeof what, "the command in the sandbox took longer than %d s",
                 UN_HEALTH_SECONDS);
    else
        snprintf(what, sizeof what, "the command in the sandbox ended with status %d%s%s", status,
                 *line ? ": " : "", *line ? quoted : "");
    return fail_unhealthy(what, in_time ? "health-command-failed" : "sandbox-unresponsive");
}

static int ask(const struct watcher *of, char *const *command, const char *program,
               const char **argv)
{
    static const char *const envp[] = {"PATH=" UN_SYSTEM_PATH, NULL};
    struct un_spawn spawn;
    struct un_error err;
    siginfo_t end = {0};
    pid_t pid;
    int pidfd, output[2] = {-1, -1};
    if (!compose(of, command, argv))
        return fail_unhealthy("the command line of runsc has no --root", "no-sandbox");
    un_auto_close int nothing = un_open_null(O_RDWR);
    /* Without COMMAND, capture the output for an error message. Writing to the nonblocking pipe
     * fails when it is full, so the rest is lost. */
    if (!*command && pipe2(output, O_CLOEXEC | O_NONBLOCK))
        return fail_unhealthy(un_errno_text(errno), "sandbox-unresponsive");
    un_spawn_init(&spawn);
    spawn.command = (struct un_command){.file = program, .argv = argv, .envp = envp};
    spawn.setup.pdeathsig = SIGKILL;
    spawn.stdio[0] = nothing;
    for (int fd = 1; fd < 3; fd++)
        spawn.stdio[fd] = output[1];
    if (un_spawn(&spawn, &pid, &pidfd, &err)) {
        un_close_each(output, 2);
        report_error("in-gvisor: unhealthy", &err);
        return UNHEALTHY;
    }
    bool in_time = wait_for_exec(pidfd, &end);
    close(pidfd);
    bool is_healthy = in_time && end.si_code == CLD_EXITED && end.si_status == 0;
    int status = is_healthy ? 0 : report_exec(in_time, &end, output[0]);
    un_close_each(output, 2);
    return status;
}

int check_health(char *const *command)
{
    static struct watcher buffers[2];
    static char program[UN_PATH_MAX];
    struct sigaction sigchld;
    struct un_error err;
    size_t count = 0;
    un_default_sigchld(&sigchld);
    struct watcher *of = find_watcher(&buffers[0], &buffers[1]);
    if (!of)
        return fail_unhealthy("no sandbox runs in this container", "no-sandbox");
    while (command[count])
        count++;
    un_auto_free const char **argv = calloc(count + OWN_ARGS, sizeof *argv);
    if (join_watcher(of, &err)) {
        un_diagnose(&err, "/proc");
        report_error("in-gvisor: unhealthy", &err);
        return UNHEALTHY;
    }
    un_auto_close int runsc = open_runsc(of, program);
    if (!argv || runsc < 0)
        return fail_unhealthy(un_errno_text(errno), "no-sandbox");
    return ask(of, command, program, argv);
}
