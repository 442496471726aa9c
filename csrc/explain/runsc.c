/* Finding the cause of a failure of runsc from the message that runsc has printed. */
#include "base/base.h"
#include "explain/explain.h"

#include <signal.h>
#include <sys/resource.h>

/* A file of /proc that only kernels with Yama have (Documentation/admin-guide/LSM/Yama.rst). */
#define YAMA_FILE "sys/kernel/yama/ptrace_scope"
#define YAMA_ADMIN_ONLY 2

/* Maximum number of bytes of a message that are searched. The limit is high, because several long
 * paths may precede the words that explain the failure. */
#define MATCHED_MAX (4 * UN_PATH_MAX)

/* Messages of runsc if the working directory does not exist in the sandbox and runsc can't create
 * it. */
static const char *const no_directory[] = {"creating working directory",
                                           "create process working directory"};

/* Returns whether the cause `id` certainly did not make runsc fail. A seccomp filter is ruled out
 * if this process has no filter that runsc could inherit, Yama if its setting does not affect
 * runsc, and a chroot always. */
static bool is_ruled_out(const char *id, const char *proc)
{
    if (un_begins(id, "seccomp-denies-"))
        return un_proc_status(proc, "Seccomp:") == 0;
    /* This process is not in a chroot: there, clone(2) could not have created the user namespace in
     * which runsc was started (EPERM). */
    if (!strcmp(id, "in-chroot"))
        return true;
    return !strcmp(id, "yama-ptrace-scope") && un_proc_number(proc, YAMA_FILE) < YAMA_ADMIN_ONLY;
}

/* Removes the ids of causes that is_ruled_out() excludes from the array `ids`. Returns how many ids
 * remain. */
static size_t rule_out(const char *ids[], size_t count, const char *proc)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!is_ruled_out(ids[i], proc))
            ids[kept++] = ids[i];
    return kept;
}

static void set_remedy(struct un_runsc_failure *failure, const char *remedy)
{
    snprintf(failure->remedy, sizeof failure->remedy, "%s", remedy);
}

static void set_cause(struct un_runsc_failure *failure, const char *id)
{
    if (!un_cause_find(id, &failure->cause))
        return;
    failure->has_cause = true;
    set_remedy(failure, failure->cause.remedy);
}

/* Appends the ids of the possible causes to the remedy "usernsctl doctor", if no single cause is
 * certain. */
static void append_candidates(struct un_runsc_failure *failure, const char *const ids[],
                              size_t count)
{
    size_t length = strlen(failure->remedy);
    for (size_t i = 0; i < count && length < sizeof failure->remedy; i++)
        length += (size_t)snprintf(failure->remedy + length, sizeof failure->remedy - length,
                                   "%s%s", i ? ", " : "    # finds which cause applies: ", ids[i]);
}

/* Returns the id of the cause for a resource limit of this process, which runsc inherits, that is
 * too low for any sandbox; or "". The least values were measured with runsc 20240729, except that
 * of RLIMIT_FSIZE: gVisor extends the file of the sandbox's memory by 1 GiB at once
 * (pkg/sentry/pgalloc). */
static const char *find_low_limit(void)
{
    struct rlimit limit;
    if (!getrlimit(RLIMIT_AS, &limit) && limit.rlim_cur < UINT64_C(3) << 30)
        return "address-space-limit";
    if (!getrlimit(RLIMIT_DATA, &limit) && limit.rlim_cur < UINT64_C(40) << 20)
        return "address-space-limit";
    if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur < UINT64_C(1) << 30)
        return "file-size-limit";
    return "";
}

/* Returns whether the procfs `proc` belongs to a PID namespace other than that of this process. */
static bool is_of_other_pids(const char *proc)
{
    int64_t pid = un_proc_status(proc, "Pid:");
    return pid >= 0 && pid != getpid();
}

static void find_runsc_causes(const char *own, const char *limit, const char *proc,
                              struct un_runsc_failure *failure)
{
    struct un_search search = {.count = 0};
    const char *ids[UN_CAUSES_MAX];
    /* runsc writes the maps of its children to /proc/PID. In the procfs of another PID namespace,
     * these pids belong to other processes or to none, so the message of runsc does not show the
     * cause. */
    if (is_of_other_pids(proc)) {
        set_cause(failure, "no-proc");
        return;
    }
    for (size_t i = 0; i < sizeof no_directory / sizeof *no_directory; i++)
        if (strstr(own, no_directory[i])) {
            set_remedy(failure, "choose a working directory that exists in the sandbox");
            return;
        }
    un_search_add_messages(&search, own, strlen(own));
    size_t count = rule_out(ids, un_search_causes(&search, ids), proc);
    set_cause(failure, count == 1 ? ids[0] : *limit ? limit : find_low_limit());
    if (failure->has_cause)
        return;
    set_remedy(failure, "usernsctl doctor");
    append_candidates(failure, ids, count);
}

int un_runsc_explain(const char *message, const char *limit, const char *config, size_t size,
                     const char *proc, struct un_runsc_failure *failure, struct un_error *err)
{
    char *own = strdup(message);
    char quoted[UN_QUOTED_ROOM];
    *failure = (struct un_runsc_failure){.has_cause = false};
    un_quote(message, quoted);
    snprintf(failure->what, sizeof failure->what, "runsc says: %s", quoted);
    if (own && !config)
        *own = '\0';
    if (!own || (config && un_remove_quotations(own, config, size))) {
        free(own);
        return un_fail_errno(err, UN_STEP_RUNSC, "");
    }
    own[strnlen(own, MATCHED_MAX)] = '\0';
    find_runsc_causes(own, limit, proc, failure);
    free(own);
    return 0;
}

/* Stores in failure->what a description of how runsc exited without a message. Returns the id of
 * the cause of the failure, or "" if the cause is unknown. */
static const char *judge_silence(int status, const char *proc, struct un_runsc_failure *failure)
{
    const char *what;
    int sig = status - 128;
    switch (status) {
    case UN_RUNSC_CRASHED:
        what = "runsc crashed or rejected an option; the message is on standard error";
        break;
    case UN_RUNSC_FAILED:
        what = "runsc refused to start; the message is on standard error";
        break;
    default:
        if (sig > 0 && sig < NSIG)
            snprintf(
                failure->what, sizeof failure->what,
                "runsc was killed by signal %d (%s) before it logged the command's exit status",
                sig, strsignal(sig));
        else
            snprintf(failure->what, sizeof failure->what,
                     "runsc ended with status %d, and did not log the command's exit status",
                     status);
        /* If a seccomp filter is active, SIGSYS comes from the filter: the kernel sends SIGSYS for
         * no other reason. */
        if (sig == SIGSYS && un_proc_status(proc, "Seccomp:") == 2)
            return "seccomp-denies-call";
        return sig > 0 && sig < NSIG ? "runsc-killed" : "runsc-ran-nothing";
    }
    strcpy(failure->what, what);
    return status == UN_RUNSC_FAILED ? "runsc-refused-call" : "";
}

void un_runsc_explain_silence(int status, const char *limit, const char *proc,
                              struct un_runsc_failure *failure)
{
    *failure = (struct un_runsc_failure){.has_cause = false};
    const char *cause = judge_silence(status, proc, failure);
    set_remedy(
        failure,
        "usernsctl explain    # with the message as input\n"
        "# after a crash, raise the limit of processes: ulimit -u, or docker run --pids-limit\n"
        "# after SIGILL, reinstall runsc\n"
        "# after a usage message, see runsc --version: the release may not know an option");
    set_cause(failure, *limit ? limit : *cause ? cause : find_low_limit());
}
