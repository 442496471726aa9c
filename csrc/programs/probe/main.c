/*
 * usernsctl-probe [--within MS] STEP [PATH...] tries one step of the start of a sandbox, and
 * reports the result. The kernel undoes the step when the program exits. usernsctl-probe --within
 * MS -- COMMAND... runs a command with a timeout (within.c).
 *
 * Exit status 0 means that the step works. Standard output then contains notices, one per line.
 * Status 1 means that the step fails. Standard output then contains one line with the errno, the
 * failed step (enum un_step), the cause id, and the reason, separated by tabs. Status 2 means wrong
 * usage, and 125 that standard output can't be written.
 *
 * With --within, a failed fork(2) is reported in the same form, and the output ends with a NUL and
 * the exit status, because callers that ignore SIGCHLD can't wait for the exit status.
 */
#include "base/base.h"
#include "child/child.h"
#include "map/map.h"
#include "programs/probe/probe.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

/* Path of the program that acts as usernsctl-child, which is this program itself (main()). */
#define CHILD "/proc/self/exe"
#define READ_ONLY 1 /* MOUNT_ATTR_RDONLY in linux/mount.h */
/* Maximum of the timeout for a step, in ms. */
#define MOST_MS 1000000000

/* A function that tries a step. `path` is a PATH argument, or NULL. Returns 0, or -1 with the error
 * in `err`. */
typedef int step_function(const char *path, struct un_error *err);

enum wants { NO_PATH, ONE_PATH, EACH_PATH };

struct step {
    const char *name;
    step_function *run;
    enum wants wants;
};

static int do_nothing(const char *path, struct un_error *err)
{
    (void)path;
    (void)err;
    return 0;
}

/* Calls unshare(0), which fails only if a seccomp filter denies it. */
static int unshare_nothing(const char *path, struct un_error *err)
{
    (void)path;
    return syscall(SYS_unshare, 0) ? un_fail_errno(err, UN_STEP_UNSHARE, "unshare(0)") : 0;
}

static int unshare_user(const char *path, struct un_error *err)
{
    (void)path;
    return unshare(CLONE_NEWUSER) ? un_fail_errno(err, UN_STEP_UNSHARE, "unshare(CLONE_NEWUSER)")
                                  : 0;
}

static int deny_setgroups(const char *path, struct un_error *err)
{
    if (unshare_user(path, err))
        return -1;
    /* Make this process dumpable, because otherwise root would own its files in /proc. A process
     * whose real and effective ids differ is not dumpable (execve(2)). */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    int fd = openat(AT_FDCWD, "/proc/self/setgroups", O_WRONLY | O_CLOEXEC);
    return fd < 0 || write(fd, "deny", 4) != 4 ? un_fail_errno(err, UN_STEP_SETGROUPS, "setgroups")
                                               : 0;
}

/* The id map that `usernsctl run` requests: the caller becomes root in the user namespace, and no
 * other id is mapped. */
static const struct un_request one_id = {
    .id = {[UN_UID] = {.map_self = true}, [UN_GID] = {.map_self = true}}};

static struct decision *decide(const struct un_request *request, struct un_error *err)
{
    const struct un_sources sources = {.path = secure_getenv("PATH")};
    struct decision *decision = malloc(sizeof *decision);
    if (!decision) {
        un_fail_errno(err, UN_STEP_PLAN, "");
    } else if (un_plan_for_caller(request, &sources, &decision->facts, &decision->plan, err)) {
        free(decision);
        decision = NULL;
    }
    return decision;
}

static int enter_one_id(uint64_t flags, struct un_error *err)
{
    un_auto_free struct decision *decision = decide(&one_id, err);
    return decision ? un_enter(&decision->plan, flags, CHILD, false, err) : -1;
}

/* Enters a new user namespace and a new mount namespace, and makes all mounts in it private. */
static int enter_private(struct un_error *err)
{
    if (enter_one_id(CLONE_NEWNS, err))
        return -1;
    return un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, err);
}

static int map_one_id(const char *path, struct un_error *err)
{
    (void)path;
    return enter_one_id(0, err);
}

/* Waits for a child that exits with 0 or an errno. Returns 0, or -1 with the child's error in
 * `err`. */
static int wait_for_errno(pid_t child, enum un_step step, const char *what, struct un_error *err)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return un_fail_errno(err, UN_STEP_WAIT, "waitpid");
    if (WIFSIGNALED(status))
        return un_fail(err, step, 0, NULL, "%s: killed by signal %d", what, WTERMSIG(status));
    errno = WEXITSTATUS(status);
    return errno ? un_fail_errno(err, step, what) : 0;
}

/* Forks a child in new namespaces by clone(2), as runsc does, because a seccomp filter may treat
 * clone(2) and unshare(2) differently. Returns as fork(2) does; on failure, fills in `err`. */
static pid_t fork_into(uint64_t flags, struct un_error *err)
{
    pid_t child = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    return child < 0 ? un_fail_errno(err, UN_STEP_CLONE, "") : child;
}

/* If clone(2) has failed with EPERM, and a seccomp filter is active, sets the cause
 * "seccomp-denies-call". unshare(2) has accepted the same flags, so the filter has denied clone(2),
 * and would deny the clone(2) of runsc, too. Returns -1. */
static int blame_filter(struct un_error *err)
{
    if (err->errnum == EPERM && un_proc_status("/proc", "Seccomp:") == 2)
        err->cause = "seccomp-denies-call";
    return -1;
}

/* Forks a child in new namespaces. The child exits at once. Returns 0, or -1 with the error in
 * `err`. */
static int try_fork_into(uint64_t flags, const char *what, struct un_error *err)
{
    pid_t child = fork_into(flags, err);
    if (child == 0)
        _exit(0);
    return child < 0 ? blame_filter(err) : wait_for_errno(child, UN_STEP_CLONE, what, err);
}

/* Forks a child in a nested user namespace, as runsc does. */
static int nest(const char *path, struct un_error *err)
{
    (void)path;
    return enter_one_id(0, err) ? -1 : try_fork_into(CLONE_NEWUSER, "a user namespace", err);
}

static int make_namespaces(const char *path, struct un_error *err)
{
    const uint64_t flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    (void)path;
    return enter_one_id(CLONE_NEWNS, err) ? -1 : try_fork_into(flags, "namespaces", err);
}

/* Plans the id map that `usernsctl run --map-auto` requests. Returns the plan, or NULL with the
 * error in `err`. */
static struct decision *decide_range(struct un_error *err)
{
    struct un_request request = one_id;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        request.id[kind].fill = UN_FILL_PACKED;
    return decide(&request, err);
}

static int read_ranges(const char *path, struct un_error *err)
{
    char text[UN_IDS_TEXT_MAX];
    un_auto_free struct decision *decision = decide_range(err);
    (void)path;
    if (!decision)
        return -1;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        const struct un_ranges *clipped = &decision->plan.clipped[kind];
        for (uint32_t i = 0; i < clipped->len; i++)
            printf("left out: %s, not mapped in this user namespace\n",
                   un_ids_text(kind, clipped->range[i].start, clipped->range[i].count, text));
    }
    for (uint32_t i = 0; i < decision->facts.notices.len; i++)
        puts(decision->facts.notices.text[i]);
    return 0;
}

/* Enters a user namespace that maps the caller's subordinate id ranges, as usernsctl-exec does. */
static int map_range(const char *path, struct un_error *err)
{
    un_auto_free struct decision *decision = decide_range(err);
    (void)path;
    return decision ? un_enter(&decision->plan, 0, CHILD, false, err) : -1;
}

static int mount_tmpfs(const char *path, struct un_error *err)
{
    (void)path;
    if (enter_private(err))
        return -1;
    return un_mount("usernsctl", "/", "tmpfs", MS_NOSUID | MS_NODEV, NULL, err);
}

/* Bind-mounts a directory given by its descriptor, as usernsctl does for the root filesystem of a
 * sandbox. */
static int bind_here(struct un_error *err)
{
    if (un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, err))
        return -1;
    int proc = openat(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return un_fail_errno(err, UN_STEP_NONE, "/proc");
    return un_bind(proc, proc, READ_ONLY, "a directory", err);
}

static int bind_proc(const char *path, struct un_error *err)
{
    (void)path;
    return enter_one_id(CLONE_NEWNS, err) || bind_here(err) ? -1 : 0;
}

/* Bind-mounts a directory in a user namespace that maps all ids of the caller. usernsctl-child
 * creates the namespace, and this process joins the namespace. */
static int mount_in_range(const char *path, struct un_error *err)
{
    un_auto_free struct decision *decision = decide_range(err);
    (void)path;
    int failed = decision ? un_enter(&decision->plan, CLONE_NEWNS, CHILD, false, err) : -1;
    return failed || bind_here(err) ? -1 : 0;
}

/* Mounts proc, in a child in a new PID namespace, because the kernel denies the mount if another
 * user namespace owns the PID namespace. */
static int mount_proc(const char *path, struct un_error *err)
{
    (void)path;
    if (enter_private(err))
        return -1;
    pid_t child = fork_into(CLONE_NEWPID, err);
    if (child < 0)
        return -1;
    if (child == 0)
        _exit(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) ? errno : 0);
    return wait_for_errno(child, UN_STEP_MOUNT, "/proc", err);
}

/* Tries pivot_root(2). The new root is a tmpfs on /proc, because /proc exists on any host on which
 * the previous steps have succeeded. */
static int pivot_root(const char *path, struct un_error *err)
{
    (void)path;
    if (enter_private(err) ||
        un_mount("usernsctl", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, NULL, err))
        return -1;
    if (syscall(SYS_pivot_root, "/proc", "/proc"))
        return un_fail_errno(err, UN_STEP_ROOT, "pivot_root");
    return 0;
}

/* Waits for the exit of the parent, which traces this process meanwhile. */
static _Noreturn void be_traced(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (getppid() == parent)
        pause();
    _exit(1);
}

/* Traces a child by ptrace(2), as gVisor's systrap and ptrace platforms do. */
static int trace(const char *path, struct un_error *err)
{
    (void)path;
    if (enter_one_id(0, err))
        return -1;
    /* Make this process dumpable before the fork, because un_enter() has made it non-dumpable, and
     * a non-dumpable child can't be traced. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    pid_t self = getpid(), child = un_fork();
    if (child < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "fork");
    if (child == 0)
        be_traced(self);
    return ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_EXITKILL)
               ? un_fail_errno(err, UN_STEP_NONE, "ptrace")
               : 0;
}

static int open_device(const char *path, struct un_error *err)
{
    return openat(AT_FDCWD, path, O_RDWR | O_CLOEXEC) < 0 ? un_fail_errno(err, UN_STEP_NONE, path)
                                                          : 0;
}

static int make_cgroup(const char *path, struct un_error *err)
{
    char group[UN_PATH_MAX];
    snprintf(group, sizeof group, "%s/usernsctl-probe-%d", path, (int)getpid());
    return mkdir(group, 0700) || rmdir(group) ? un_fail_errno(err, UN_STEP_NONE, group) : 0;
}

/* Executes a program that ptrace(2) stops before its first instruction. */
static _Noreturn void become_stopped(const char *path)
{
    char *argv[] = {(char *)path, NULL}, *none[] = {NULL};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0)
        execve(path, argv, none);
    _exit(errno);
}

/* Prints the AppArmor profile under which a program would run. Executes the program to find out,
 * because the kernel chooses the profile during execve(2), and only root can read the rules. */
static int print_profile(const char *path, struct un_error *err)
{
    char who[16], label[512];
    int status;
    pid_t child = un_fork();
    if (child < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "fork");
    if (child == 0)
        become_stopped(path);
    if (waitpid(child, &status, 0) < 0)
        return un_fail_errno(err, UN_STEP_WAIT, "waitpid");
    if (!WIFSTOPPED(status))
        return 0;
    snprintf(who, sizeof who, "%d", (int)child);
    if (un_proc_apparmor("/proc", who, label, sizeof label))
        printf("%s\t%s\n", label, path);
    kill_child(child);
    waitpid(child, &status, 0);
    return 0;
}

static const struct step steps[] = {
    {"nothing", do_nothing, NO_PATH},
    {"unshare-nothing", unshare_nothing, NO_PATH},
    {"unshare-user", unshare_user, NO_PATH},
    {"setgroups", deny_setgroups, NO_PATH},
    {"one-id-map", map_one_id, NO_PATH},
    {"nested-user", nest, NO_PATH},
    {"namespaces", make_namespaces, NO_PATH},
    {"ranges", read_ranges, NO_PATH},
    {"range-map", map_range, NO_PATH},
    {"range-mount", mount_in_range, NO_PATH},
    {"mount", mount_tmpfs, NO_PATH},
    {"mount-bind", bind_proc, NO_PATH},
    {"mount-proc", mount_proc, NO_PATH},
    {"pivot-root", pivot_root, NO_PATH},
    {"ptrace", trace, NO_PATH},
    {"device", open_device, ONE_PATH},
    {"cgroup", make_cgroup, ONE_PATH},
    {"profiles", print_profile, EACH_PATH},
};

static int print_failure(struct un_error *err)
{
    char reason[UN_DETAIL_MAX + 128];
    un_diagnose(err, "/proc");
    printf("%d\t%s\t%s\t%s\n", err->errnum, un_step_name(err->step), err->cause ? err->cause : "",
           un_error_reason(err, reason, sizeof reason));
    return 1;
}

/* Flushes standard output. Returns `status`, or 125 if writing has failed. */
static int flush_status(int status)
{
    if (!ferror(stdout) && fflush(stdout) == 0)
        return status;
    perror("usernsctl-probe: standard output");
    return 125;
}

static int print_usage(void)
{
    fputs("usage: usernsctl-probe [--within MS] STEP [PATH...]\n"
          "       usernsctl-probe --within MS -- COMMAND [ARGUMENT...]\n"
          "It is a part of usernsctl doctor.\n",
          stderr);
    return 2;
}

static int run_on_paths(const struct step *step, char **paths)
{
    struct un_error err;
    int failed = step->run(*paths, &err);
    while (!failed && *paths && *++paths)
        failed = step->run(*paths, &err);
    return flush_status(failed ? print_failure(&err) : 0);
}

static bool takes_paths(const struct step *step, int paths)
{
    return step->wants == EACH_PATH ? paths > 0 : paths == (int)step->wants;
}

static int run_step(int argc, char **argv)
{
    for (size_t i = 0; argc > 0 && i < sizeof steps / sizeof steps[0]; i++)
        if (!strcmp(argv[0], steps[i].name) && takes_paths(&steps[i], argc - 1))
            return run_on_paths(&steps[i], argv + 1);
    return print_usage();
}

/* Executes the command. Returns only on failure, with the exit status. */
static int run_command(char **argv)
{
    execv(argv[0], argv);
    perror(argv[0]);
    return 125;
}

int main(int argc, char **argv)
{
    uint64_t most;
    struct sigaction ignored;
    struct un_error err;
    if (argc && !strcmp(argv[0], UN_CHILD_NAME))
        un_child_main(argv, environ);
    un_default_sigchld(&ignored);
    if (argc < 4 || strcmp(argv[1], "--within"))
        return argc > 1 ? run_step(argc - 1, argv + 1) : print_usage();
    const char *end = un_number_read(argv[2], MOST_MS, &most);
    if (!end || *end)
        return print_usage();
    int status = run_within(most, &err);
    if (status == UN_PROBE_NO_CHILD)
        status = print_failure(&err);
    if (status >= 0) {
        printf("%c%d", '\0', status);
        return flush_status(status);
    }
    if (strcmp(argv[3], "--"))
        return run_step(argc - 3, argv + 3);
    return argc > 4 ? run_command(argv + 4) : print_usage();
}
