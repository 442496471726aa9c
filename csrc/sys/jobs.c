#include "base/base.h"
#include "sys/sys.h"

#include <poll.h>
#include <signal.h>

/* Interval in milliseconds between checks whether a signal has stopped a job. */
#define SLICE_MS 200
/* Maximum number of jobs that run at the same time. */
#define JOBS_MAX 2

static int start_job(struct un_job *job, int empty, const uint64_t *signals, struct un_error *err)
{
    static const char *const env[] = {"LC_ALL=C", "PATH=" UN_SYSTEM_PATH, NULL};
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return un_fail(err, UN_STEP_HELPER, errno, NULL, "can't create a pipe for the output of %s",
                       job->argv[0]);
    struct un_spawn spawn;
    un_spawn_init(&spawn);
    spawn.command = (struct un_command){.file = job->argv[0], .argv = job->argv, .envp = env};
    spawn.stdio[0] = job->input ? job->input : empty;
    spawn.stdio[1] = spawn.stdio[2] = ends[1];
    spawn.close_fds = true;
    spawn.restore_signals = true;
    spawn.signals = signals;
    pid_t pid;
    int failed = un_spawn_bare(&spawn, &pid, &job->pidfd, err);
    close(ends[1]);
    if (failed)
        close(ends[0]);
    job->pipe = failed ? -1 : ends[0];
    return failed;
}

static void close_pipe(struct un_job *job)
{
    un_close_quietly(job->pipe);
    job->pipe = -1;
}

static size_t room(const struct un_job *job)
{
    return job->output_size - 1 - job->length;
}

/* Reads once from the output pipe of a job. poll(2) has reported `events` for the pipe, so the read
 * does not block. Discards output that exceeds the buffer. */
static void read_output(struct un_job *job, short events)
{
    char spare[4096];
    size_t most = room(job);
    ssize_t got = 0;
    if (events & POLLIN)
        got = most ? read(job->pipe, job->output + job->length, most)
                   : read(job->pipe, spare, sizeof spare);
    if (got < 0 && errno == EINTR)
        return;
    if (got <= 0)
        close_pipe(job);
    else if (most)
        job->length += (size_t)got;
    job->output[job->length] = '\0';
}

/* Reads the output that a job has left in its pipe. Does not wait for end of file, because other
 * processes may have the pipe open, too. */
static void read_last_output(struct un_job *job)
{
    struct pollfd end = {.fd = job->pipe, .events = POLLIN};
    while (job->pipe >= 0 && room(job) && poll(&end, 1, 0) > 0)
        read_output(job, end.revents);
    close_pipe(job);
}

static void finish(struct un_job *job, bool (*reap)(int pidfd, siginfo_t *how))
{
    siginfo_t how;
    bool known = reap(job->pidfd, &how);
    job->ended = known ? how.si_code : 0;
    job->status = known ? how.si_status : 0;
    close(job->pidfd);
    job->pidfd = -1;
    read_last_output(job);
}

/* Waits until a job writes output or exits, at most `timeout` milliseconds. Reads the output, and
 * reaps the jobs that have exited. */
static void wait_round(struct un_job *jobs, size_t count, int timeout)
{
    struct pollfd fds[2 * JOBS_MAX];
    for (size_t i = 0; i < count; i++) {
        fds[2 * i] = (struct pollfd){.fd = jobs[i].pipe, .events = POLLIN};
        fds[2 * i + 1] = (struct pollfd){.fd = jobs[i].pidfd, .events = POLLIN};
    }
    if (poll(fds, 2 * count, timeout) <= 0)
        return;
    for (size_t i = 0; i < count; i++) {
        if (fds[2 * i].revents)
            read_output(&jobs[i], fds[2 * i].revents);
        if (fds[2 * i + 1].revents)
            finish(&jobs[i], un_reap);
    }
}

static bool is_job_stopped(struct un_job *job)
{
    job->stopped_by = un_stopped_by(job->pidfd);
    return job->stopped_by;
}

static void wait_all(struct un_job *jobs, size_t count, int timeout_ms)
{
    int64_t now = un_now_ms(), deadline = now + timeout_ms, next_check = now + SLICE_MS;
    for (;; now = un_now_ms()) {
        bool is_over = now >= deadline, is_check_due = now >= next_check;
        size_t running = 0;
        for (size_t i = 0; i < count; i++) {
            if (jobs[i].pidfd >= 0 && (is_over || (is_check_due && is_job_stopped(&jobs[i])))) {
                jobs[i].timed_out = is_over;
                finish(&jobs[i], un_kill_and_reap);
            }
            running += jobs[i].pidfd >= 0;
        }
        if (!running)
            return;
        if (is_check_due)
            next_check = now + SLICE_MS;
        wait_round(jobs, count, (int)((next_check < deadline ? next_check : deadline) - now));
    }
}

/* Returns the read end of an empty pipe for the standard input of jobs, which must not read the
 * command's standard input. /dev/null is not used, because root in the current namespaces may have
 * mounted a file on /dev/null that blocks its reader. */
static int open_empty(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return -1;
    close(ends[1]);
    return ends[0];
}

struct run {
    struct un_job *jobs;
    size_t count;
    int timeout_ms;
    struct un_error *err;
};

static int run_jobs(void *arg, const uint64_t *signals)
{
    const struct run *run = arg;
    struct un_job *jobs = run->jobs;
    int empty = open_empty();
    size_t started = 0;
    for (; started < run->count; started++) {
        jobs[started].length = 0;
        jobs[started].output[0] = '\0';
        jobs[started].timed_out = false;
        jobs[started].stopped_by = 0;
        if (start_job(&jobs[started], empty, signals, run->err))
            break;
    }
    un_close_quietly(empty);
    if (started < run->count) {
        for (size_t i = 0; i < started; i++)
            finish(&jobs[i], un_kill_and_reap);
        return -1;
    }
    wait_all(jobs, run->count, run->timeout_ms);
    return 0;
}

int un_run_jobs(struct un_job *jobs, size_t count, int timeout_ms, struct un_error *err)
{
    struct run run = {jobs, count, timeout_ms, err};
    int cancel = un_forbid_cancel();
    int failed = un_call_waiting(run_jobs, &run, err);
    un_restore_cancel(cancel);
    return failed;
}
