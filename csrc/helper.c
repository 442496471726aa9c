/* newuidmap(1) and newgidmap(1): setuid programs that write what /etc/subuid and /etc/subgid
 * grant. */
#include "error.h"
#include "jobs.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS_MAX 400

struct call {
    int kind;
    const char *argv[2 + 3 * UN_MAP_MAX + 1];
    char numbers[UN_MAP_TEXT_MAX];
    char words[WORDS_MAX]; /* what it says */
};

/* The numbers of a map as arguments are its text, cut at the blanks. */
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

static int fail(const char *helper, const char *cause, const char *how, int number,
                const char *words, struct un_error *err)
{
    char told[UN_DETAIL_MAX];
    snprintf(told, sizeof told, how, number);
    int length = (int)strcspn(words, "\n");
    return un_fail(err, UN_STEP_HELPER, 0, cause, "%s %s%s%.*s", helper, told, length ? ": " : "",
                   length, words);
}

/* Only "exited with 0" is success. */
static int judge(const struct un_job *job, struct un_error *err)
{
    const char *helper = job->argv[0];
    if (job->timed_out)
        return fail(helper, "helper-hung", "had not ended in time, and was killed", 0, job->output,
                    err);
    if (job->stopped_by)
        return fail(helper, "helper-stopped", "was stopped by signal %d, so it was killed",
                    job->stopped_by, job->output, err);
    if (WIFSIGNALED(job->status))
        return fail(helper, "helper-killed", "was killed by signal %d", WTERMSIG(job->status),
                    job->output, err);
    if (WEXITSTATUS(job->status))
        return fail(helper, "helper-failed", "exited with status %d", WEXITSTATUS(job->status),
                    job->output, err);
    return 0;
}

static int run(struct call *calls, size_t count, int dir, int timeout_ms, struct un_job *jobs,
               struct un_error *err)
{
    for (size_t i = 0; i < count; i++)
        jobs[i] = (struct un_job){
            .argv = calls[i].argv,
            .keep_fd = dir,
            .output = calls[i].words,
            .output_size = sizeof calls[i].words,
        };
    return un_run_jobs(jobs, count, timeout_ms, err);
}

/* shadow before 4.14 takes a pid only, and tells by its usage. */
static bool wants_pid(const struct un_job *job)
{
    return WIFEXITED(job->status) && WEXITSTATUS(job->status) && strstr(job->output, "sage:") &&
           !strstr(job->output, "fd:");
}

static int run_all(struct call *calls, size_t count, int dir, pid_t pid, const struct un_plan *plan,
                   struct un_error *err)
{
    struct un_job jobs[2];
    char target[32];
    /* A descriptor stays what it is; a pid could be somebody else's by the time it is looked at. */
    snprintf(target, sizeof target, "fd:%d", dir);
    for (bool by_pid = false;; by_pid = true) {
        for (size_t i = 0; i < count; i++)
            make_argv(&calls[i], target, plan);
        if (run(calls, count, dir, plan->helper_timeout_ms, jobs, err))
            return -1;
        if (by_pid || !wants_pid(&jobs[0]))
            break;
        snprintf(target, sizeof target, "%d", (int)pid);
    }
    for (size_t i = 0; i < count; i++)
        if (judge(&jobs[i], err))
            return -1;
    return 0;
}

int un_run_helpers(int dir, pid_t pid, const struct un_plan *plan, struct un_error *err)
{
    struct call calls[2];
    size_t count = 0;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (plan->writer[kind] == UN_WRITER_HELPER)
            calls[count++].kind = kind;
    if (count == 0)
        return 0;
    /* Where ours are closed, `dir` may be one of the three that become a helper's standard input,
     * output and error. */
    int passed = fcntl(dir, F_DUPFD_CLOEXEC, 3);
    if (passed < 0)
        return un_fail_errno(err, UN_STEP_HELPER, "the target's directory");
    int failed = run_all(calls, count, passed, pid, plan, err);
    close(passed);
    return failed;
}
