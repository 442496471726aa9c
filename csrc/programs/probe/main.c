/*
 * usernsctl-probe STEP [PATH]: tries one step, undoes it by ending, and says how it went.
 *
 * Exit status 0: the step works; what is worth knowing is on standard output, a line each. 1: it
 * does not, and standard output has one line with errno, the step of the core, the cause that the
 * core found, and the reason, between tabs. 2: it was called wrongly. 125: there is no standard
 * output to tell it on.
 */
#include "base/caps.h"
#include "base/error.h"
#include "child/enter.h"
#include "sys/process.h"
#include "sys/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* This very program, see main(). */
#define CHILD "/proc/self/exe"
#define READ_ONLY 1 /* MOUNT_ATTR_RDONLY */

/* What each step gets: the PATH it was given, or NULL. */
typedef int step_function(const char *path, struct un_error *err);

struct step {
    const char *name;
    step_function *run;
    bool wants_path;
};

static int do_nothing(const char *path, struct un_error *err)
{
    (void)path;
    (void)err;
    return 0;
}

/* The kernel has no reason to refuse this. */
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
    int fd = open("/proc/self/setgroups", O_WRONLY | O_CLOEXEC);
    return fd < 0 || write(fd, "deny", 4) != 4 ? un_fail_errno(err, UN_STEP_SETGROUPS, "setgroups")
                                               : 0;
}

/* The request of `usernsctl run`: we are root inside, and nobody else is there. */
static const struct un_request one_id = {
    .id = {[UN_UID] = {.map_self = true}, [UN_GID] = {.map_self = true}}};

/* What is planned, and of what: more than a small stack holds. */
struct decision {
    struct un_facts facts;
    struct un_plan plan;
};

static struct decision *decide(const struct un_request *request, struct un_error *err)
{
    const struct un_sources sources = {.path = secure_getenv("PATH")};
    struct decision *made = malloc(sizeof *made);
    if (!made) {
        un_fail_errno(err, UN_STEP_PLAN, "");
    } else if (un_plan_for_caller(request, &sources, &made->facts, &made->plan, err)) {
        free(made);
        made = NULL;
    }
    return made;
}

static int enter(uint64_t flags, struct un_error *err)
{
    struct decision *made = decide(&one_id, err);
    int failed = made ? un_enter(&made->plan, flags, CHILD, false, err) : -1;
    free(made);
    return failed;
}

static int map_one_id(const char *path, struct un_error *err)
{
    (void)path;
    return enter(0, err);
}

static int nest(const char *path, struct un_error *err)
{
    (void)path;
    return enter(0, err) || enter(0, err) ? -1 : 0;
}

/* Waits for a child that reports by its exit status: the errno of what failed in it. */
static int collect(pid_t child, enum un_step step, const char *what, struct un_error *err)
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

/* Forks into new namespaces, as runsc does: a filter can refuse to unshare(2) what it allows here.
 */
static pid_t fork_into(uint64_t flags, struct un_error *err)
{
    pid_t child = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    return child < 0 ? un_fail_errno(err, UN_STEP_CLONE, "") : child;
}

static int make_namespaces(const char *path, struct un_error *err)
{
    (void)path;
    if (enter(CLONE_NEWNS, err))
        return -1;
    pid_t child =
        fork_into(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS, err);
    if (child == 0)
        _exit(0);
    return child < 0 ? -1 : collect(child, UN_STEP_CLONE, "namespaces", err);
}

/* All that we may have: whoever may map any id needs no subordinate range. */
static struct decision *decide_range(struct un_error *err)
{
    struct un_request request = one_id;
    uint64_t caps = 0;
    un_caps_effective(&caps);
    bool any = caps >> CAP_SETUID & 1 && caps >> CAP_SETGID & 1;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        request.id[kind].fill = any ? UN_FILL_ALL : UN_FILL_PACKED;
        request.id[kind].map_self = !any;
    }
    return decide(&request, err);
}

static int read_ranges(const char *path, struct un_error *err)
{
    struct decision *made = decide_range(err);
    (void)path;
    if (!made)
        return -1;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        const struct un_ranges *clipped = &made->plan.clipped[kind];
        for (uint32_t i = 0; i < clipped->len; i++)
            printf("left out: %s %" PRIu32 ":%" PRIu32 " does not exist here\n",
                   kind == UN_UID ? "uid" : "gid", clipped->range[i].start,
                   clipped->range[i].count);
    }
    for (uint32_t i = 0; i < made->facts.notices.len; i++)
        puts(made->facts.notices.text[i]);
    free(made);
    return 0;
}

static int map_range(const char *path, struct un_error *err)
{
    struct decision *made = decide_range(err);
    struct un_namespace ns;
    (void)path;
    int failed = made ? un_namespace_create(&made->plan, 0, CHILD, &ns, err) : -1;
    free(made);
    if (!failed)
        un_namespace_close(&ns);
    return failed;
}

static int mount_tmpfs(const char *path, struct un_error *err)
{
    (void)path;
    if (enter(CLONE_NEWNS, err))
        return -1;
    return un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, err) ||
                   un_mount("usernsctl", "/", "tmpfs", MS_NOSUID | MS_NODEV, NULL, err)
               ? -1
               : 0;
}

/* As the root filesystem of a sandbox is made. */
static int bind_proc(const char *path, struct un_error *err)
{
    (void)path;
    if (enter(CLONE_NEWNS, err) || un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, err))
        return -1;
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return un_fail_errno(err, UN_STEP_NONE, "/proc");
    return un_bind(proc, proc, READ_ONLY, "a directory", err);
}

/* A /proc shows a PID namespace, and whoever mounts it must be in one of its own. */
static int mount_proc(const char *path, struct un_error *err)
{
    (void)path;
    if (enter(CLONE_NEWNS, err) || un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, err))
        return -1;
    pid_t child = fork_into(CLONE_NEWPID, err);
    if (child < 0)
        return -1;
    if (child == 0)
        _exit(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) ? errno : 0);
    return collect(child, UN_STEP_MOUNT, "/proc", err);
}

/* On /proc, since that directory is there wherever we get so far. */
static int pivot_root(const char *path, struct un_error *err)
{
    (void)path;
    if (enter(CLONE_NEWNS, err) || un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, err) ||
        un_mount("usernsctl", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, NULL, err))
        return -1;
    if (chdir("/proc") || syscall(SYS_pivot_root, ".", "."))
        return un_fail_errno(err, UN_STEP_ROOT, "pivot_root");
    return 0;
}

/* Waits to be traced, and to be killed; by our own end at the latest. */
static _Noreturn void be_traced(int parent)
{
    struct un_error err;
    if (un_die_with_parent(SIGKILL, parent, &err))
        _exit(1);
    for (;;)
        pause();
}

/* gVisor's sandbox traces the processes that it starts. */
static int trace(const char *path, struct un_error *err)
{
    (void)path;
    if (enter(0, err))
        return -1;
    /* Who enters is kept from being traced. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    int self = un_pidfd_open(getpid());
    if (self < 0)
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    pid_t child = fork();
    if (child < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "fork");
    if (child == 0)
        be_traced(self);
    int refused = ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_EXITKILL) ? errno : 0;
    kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    close(self);
    errno = refused;
    return refused ? un_fail_errno(err, UN_STEP_NONE, "ptrace") : 0;
}

static int open_device(const char *path, struct un_error *err)
{
    return open(path, O_RDWR | O_CLOEXEC) < 0 ? un_fail_errno(err, UN_STEP_NONE, path) : 0;
}

static int make_cgroup(const char *path, struct un_error *err)
{
    char made[UN_PATH_MAX];
    snprintf(made, sizeof made, "%s/usernsctl-probe-%d", path, (int)getpid());
    return mkdir(made, 0700) || rmdir(made) ? un_fail_errno(err, UN_STEP_NONE, made) : 0;
}

static const struct step steps[] = {
    {"nothing", do_nothing, false},         {"unshare-nothing", unshare_nothing, false},
    {"unshare-user", unshare_user, false},  {"setgroups", deny_setgroups, false},
    {"one-id-map", map_one_id, false},      {"nested-user", nest, false},
    {"namespaces", make_namespaces, false}, {"ranges", read_ranges, false},
    {"range-map", map_range, false},        {"mount", mount_tmpfs, false},
    {"mount-bind", bind_proc, false},       {"mount-proc", mount_proc, false},
    {"pivot-root", pivot_root, false},      {"ptrace", trace, false},
    {"device", open_device, true},          {"cgroup", make_cgroup, true},
};

static int report(struct un_error *err)
{
    char reason[UN_DETAIL_MAX + 128];
    un_diagnose(err, "/proc");
    printf("%d\t%s\t%s\t%s\n", err->errnum, un_step_name(err->step), err->cause ? err->cause : "",
           un_error_reason(err, reason, sizeof reason));
    return 1;
}

/* The status, if what goes with it could be told. */
static int conclude(int status)
{
    if (!ferror(stdout) && fflush(stdout) == 0)
        return status;
    perror("usernsctl-probe: standard output");
    return 125;
}

int main(int argc, char **argv)
{
    struct un_error err;
    if (argc && !strcmp(argv[0], UN_CHILD_NAME))
        un_child_main(argv, environ);
    for (size_t i = 0; argc > 1 && i < sizeof steps / sizeof steps[0]; i++)
        if (!strcmp(argv[1], steps[i].name) && argc == 2 + steps[i].wants_path) {
            const char *path = steps[i].wants_path ? argv[2] : NULL;
            return conclude(steps[i].run(path, &err) ? report(&err) : 0);
        }
    fputs("usage: usernsctl-probe STEP [PATH]; it is a part of usernsctl doctor\n", stderr);
    return 2;
}
