/*
 * Running newuidmap(1) and newgidmap(1), the setuid programs that write maps with the ids that
 * /etc/subuid and /etc/subgid grant.
 *
 * The helpers get the pid of the target process, because old releases of shadow accept no
 * descriptor of its /proc directory. The target is an unreaped child of this process, so its pid
 * can't be reused.
 */
#include "base/base.h"
#include "explain/explain.h"
#include "facts/facts.h"
#include "map/map.h"
#include "sys/sys.h"

#include <linux/securebits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define OUTPUT_MAX 400

struct call {
    int kind;
    const char *argv[2 + 3 * UN_MAP_MAX + 1];
    char numbers[UN_MAP_TEXT_MAX];
    char output[OUTPUT_MAX]; /* first bytes of the helper's output */
};

/* Builds the arguments of newuidmap or newgidmap: its path, the pid of the target process, and the
 * numbers of the map. */
static void make_argv(struct call *call, const char *target, const struct un_plan *plan)
{
    size_t count = 0;
    call->argv[count++] = plan->helper[call->kind];
    call->argv[count++] = target;
    un_map_format(&plan->map.of[call->kind], call->numbers);
    char *rest;
    for (char *word = strtok_r(call->numbers, " \n", &rest); word;
         word = strtok_r(NULL, " \n", &rest))
        call->argv[count++] = word;
    call->argv[count] = NULL;
}

static int fail_helper(const char *helper, const char *cause, const char *how, int number,
                       const char *output, struct un_error *err)
{
    char ending[UN_DETAIL_MAX];
    snprintf(ending, sizeof ending, how, number);
    int length = (int)strcspn(output, "\n");
    return un_fail(err, UN_STEP_HELPER, 0, cause, "%s %s%s%.*s", helper, ending, length ? ": " : "",
                   length, output);
}

/* Returns whether a seccomp filter has prevented newuidmap or newgidmap from opening the map file.
 * The program's output then contains one of two errors that the kernel itself never returns to the
 * owner of the file. Older filters deny openat2(2), which Debian's shadow calls since
 * 1:4.17.4-2+deb13u1. */
static bool is_open_filtered(const char *output)
{
    return strstr(output, "open of ") &&
           (strstr(output, "_map failed: Operation not permitted") ||
            strstr(output, "_map failed: Function not implemented")) &&
           un_proc_status("/proc", "Seccomp:") == 2;
}

/* Returns the id of the cause for which newuidmap or newgidmap gains no capabilities although it is
 * setuid root, and so can't open the map file. Returns NULL if no cause is found (capabilities(7),
 * "Capabilities and execution of programs by root" and "Set-user-ID-root programs that have file
 * capabilities"). */
static const char *cause_of_powerless_root(const char *helper)
{
    struct stat status;
    if (stat(helper, &status) || !(status.st_mode & S_ISUID))
        return NULL;
    if (getxattr(helper, "security.capability", NULL, 0) > 0)
        return "helper-setuid-and-capable";
    int bits = un_securebits();
    return bits >= 0 && bits & SECBIT_NOROOT ? "securebits-noroot" : NULL;
}

/* Returns whether `helper` has file capabilities, but not the capability that writing the map
 * requires. */
static bool has_wrong_capability(const char *helper)
{
    struct vfs_ns_cap_data caps;
    const unsigned needed = strstr(helper, "newgidmap") ? CAP_SETGID : CAP_SETUID;
    ssize_t size = getxattr(helper, "security.capability", &caps, sizeof caps);
    return size >= (ssize_t)XATTR_CAPS_SZ_1 && (!(caps.magic_etc & VFS_CAP_FLAGS_EFFECTIVE) ||
                                                !(caps.data[0].permitted & 1U << needed));
}

/* Returns whether the file from which `helper` reads the subordinate ranges is a symbolic link. */
static bool reads_symbolic_link(const char *helper)
{
    return un_subid_is_link(un_kinds[strstr(helper, "newgidmap") ? UN_GID : UN_UID].subid);
}

/* Returns the id of the cause for which newuidmap or newgidmap could not open the map file
 * (EACCES), or NULL if no cause is found. */
static const char *cause_of_closed_map(const char *helper)
{
    const char *cause = un_cause_of_closed_proc("/proc");
    return cause ? cause : cause_of_powerless_root(helper);
}

/* Returns the id of the cause for which newuidmap or newgidmap failed, or NULL if its output does
 * not reveal the cause (shadow's lib/idmapping.c). If a seccomp filter denies a system call that
 * all helpers need, stores an error that names this call in `filter`. */
static const char *cause_in(const char *helper, const char *output, struct un_error *filter)
{
    if (strstr(output, "Read-only file system"))
        return "proc-read-only";
    const char *closed = NULL;
    if (strstr(output, "_map failed: Permission denied"))
        closed = cause_of_closed_map(helper);
    else if (strstr(output, "Could not open proc directory"))
        closed = cause_of_powerless_root(helper);
    if (closed)
        return closed;
    if (is_open_filtered(output) || un_filter_forbids(&un_helper_calls, filter))
        return "seccomp-denies-helper";
    /* Check the real ids of this process, by which newuidmap looks up the user. The plan contains
     * the effective ids. */
    if (strstr(output, "Cannot determine your user name"))
        return "no-passwd-entry";
    if (strstr(output, " is owned by a different user") && getuid() == geteuid())
        return "gid-differs-from-passwd";
    /* A setuid-root helper needs CAP_SYS_ADMIN, too, because not root but the caller owns the user
     * namespace (user_namespaces(7)). */
    if (strstr(output, "_map failed: Operation not permitted") &&
        prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0) == 0)
        return "bounding-set";
    if (strstr(output, "write to ") && has_wrong_capability(helper))
        return "helper-wrong-capability";
    return reads_symbolic_link(helper) ? "subid-not-a-file" : "helper-failed";
}

static int fail_exited_helper(const struct un_job *job, struct un_error *err)
{
    const char *helper = job->argv[0];
    struct un_error filter = {.detail = ""};
    const char *cause = cause_in(helper, job->output, &filter);
    fail_helper(helper, cause, "exited with status %d", job->status, job->output, err);
    if (*filter.detail) {
        size_t length = strlen(err->detail);
        snprintf(err->detail + length, sizeof err->detail - length, "; %s", filter.detail);
    }
    return -1;
}

/* Fails unless the helper, newuidmap or newgidmap, exited with status 0. */
static int judge_helper(const struct un_job *job, struct un_error *err)
{
    const char *helper = job->argv[0];
    if (job->timed_out)
        return fail_helper(helper, "helper-hung", "was killed after a timeout", 0, job->output,
                           err);
    if (job->stopped_by)
        return fail_helper(helper, "helper-stopped", "was stopped by signal %d, and then killed",
                           job->stopped_by, job->output, err);
    if (!job->ended)
        return fail_helper(helper, "helper-status-lost", "ended with an unknown status", 0,
                           job->output, err);
    if (job->ended != CLD_EXITED)
        return fail_helper(helper,
                           job->status == SIGSYS ? "seccomp-denies-helper" : "helper-killed",
                           "was killed by signal %d", job->status, job->output, err);
    if (job->status)
        return fail_exited_helper(job, err);
    return 0;
}

/* Returns the id of the cause for which the execve(2) of newuidmap or newgidmap failed, or NULL if
 * the cause is unknown. */
static const char *cause_of_exec(const struct un_error *err)
{
    switch (err->errnum) {
    case EOVERFLOW:
        return "helper-caps-other-userns";
    case EACCES:
        return "helper-not-executable";
    case ENOEXEC:
        return "helper-not-a-program";
    case ENOENT:
        /* ENOENT means that the interpreter of the helper is missing, or that the helper was
         * removed after the plan had been made. */
        return access(err->detail, F_OK) ? "helper-failed" : "helper-not-a-program";
    case EAGAIN:
        return "process-limit";
    default:
        return NULL;
    }
}

/* Reads the pid of a process whose /proc directory is open as `dir`, for newuidmap and newgidmap.
 * The pid must come from `dir`: the two programs use the same procfs, which may belong to a PID
 * namespace other than that of this process. */
static int read_target_pid(int dir, char *pid, size_t size, struct un_error *err)
{
    if (un_read_file(dir, "stat", pid, size) < 0)
        return un_fail_errno(err, UN_STEP_HELPER, "can't read the pid of the target process");
    pid[strspn(pid, "0123456789")] = '\0';
    return 0;
}

static int run_calls(struct call *calls, size_t count, const struct un_plan *plan,
                     struct un_error *err)
{
    struct un_job jobs[2];
    for (size_t i = 0; i < count; i++)
        jobs[i] = (struct un_job){
            .argv = calls[i].argv,
            .output = calls[i].output,
            .output_size = sizeof calls[i].output,
        };
    if (un_run_jobs(jobs, count, plan->helper_timeout_ms, err)) {
        /* Replace UN_STEP_LOOKUP and UN_STEP_EXEC, which users would take for a failure of their
         * own command. */
        err->step = UN_STEP_HELPER;
        err->cause = cause_of_exec(err);
        return -1;
    }
    for (size_t i = 0; i < count; i++)
        if (judge_helper(&jobs[i], err))
            return -1;
    return 0;
}

int un_run_helpers(int dir, const struct un_plan *plan, struct un_error *err)
{
    char pid[32];
    size_t count = 0;
    if (plan->writer[UN_UID] != UN_WRITER_HELPER && plan->writer[UN_GID] != UN_WRITER_HELPER)
        return 0;
    if (read_target_pid(dir, pid, sizeof pid, err))
        return -1;
    /* Allocate the two structures, because they do not fit a small stack. */
    un_auto_free struct call *calls = calloc(2, sizeof *calls);
    if (!calls)
        return un_fail_errno(err, UN_STEP_HELPER,
                             "can't prepare the arguments of newuidmap and newgidmap");
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (plan->writer[kind] == UN_WRITER_HELPER) {
            calls[count].kind = kind;
            make_argv(&calls[count++], pid, plan);
        }
    return run_calls(calls, count, plan, err);
}
