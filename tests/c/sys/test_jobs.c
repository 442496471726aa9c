/* Tests of running helper programs in parallel, and of their output and exit statuses. */
#include "forked.h"
#include "sys/sys.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

static struct un_error err;

/* A timeout in milliseconds, much longer than any job takes, and much shorter than the time limit
 * of a test. */
enum { PATIENCE_MS = 20000 };

struct shell {
    const char *argv[4];
    char output[64];
    struct un_job job;
};

static void init_shell(struct shell *shell, const char *script)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    memset(shell, 0, sizeof *shell);
    memcpy(shell->argv, argv, sizeof argv);
    shell->job = (struct un_job){
        .argv = shell->argv, .output = shell->output, .output_size = sizeof shell->output};
}

static void run_one(struct shell *shell, const char *script, int timeout_ms)
{
    init_shell(shell, script);
    CHECK_OK(un_run_jobs(&shell->job, 1, timeout_ms, &err), &err);
    check_no_child_left();
}

static void the_output_and_status_of_a_job_are_returned(void)
{
    struct shell shell;
    run_one(&shell, "echo out; echo err >&2; exit 7", PATIENCE_MS);
    CHECK_TEXT(shell.output, "out\nerr\n");
    CHECK_INT(shell.job.ended, CLD_EXITED);
    CHECK_INT(shell.job.status, 7);
    CHECK(!shell.job.timed_out);
    CHECK_INT(shell.job.stopped_by, 0);

    run_one(&shell, "true", PATIENCE_MS);
    CHECK_TEXT(shell.output, "");
    CHECK_INT(shell.job.status, 0);
}

static void endless_output_is_read_and_discarded(void)
{
    struct shell shell;
    run_one(&shell, "head -c 10000000 /dev/zero | tr '\\0' x; exit 3", PATIENCE_MS);
    CHECK_INT((long long)strlen(shell.output), (long long)sizeof shell.output - 1);
    CHECK_INT((long long)strspn(shell.output, "x"), (long long)sizeof shell.output - 1);
    CHECK_INT(shell.job.ended, CLD_EXITED);
    CHECK_INT(shell.job.status, 3);
}

static void a_job_that_hangs_is_killed_at_the_timeout(void)
{
    struct shell shell;
    /* A slow host may reach the timeout before the job has printed anything. Retry with a longer
     * timeout. */
    for (int ms = 300; ms <= PATIENCE_MS; ms *= 5) {
        run_one(&shell, "echo waiting; exec sleep 1000", ms);
        if (*shell.output)
            break;
    }
    CHECK(shell.job.timed_out);
    CHECK_TEXT(shell.output, "waiting\n");
    CHECK(shell.job.ended == CLD_KILLED || shell.job.ended == CLD_DUMPED);
    CHECK_INT(shell.job.status, SIGKILL);
}

static void killed_and_exited_jobs_differ(void)
{
    struct shell shell;
    run_one(&shell, "echo bye; kill -SEGV $$", PATIENCE_MS);
    CHECK(shell.job.ended == CLD_KILLED || shell.job.ended == CLD_DUMPED);
    CHECK_INT(shell.job.status, SIGSEGV);
    CHECK(!shell.job.timed_out);
    CHECK_TEXT(shell.output, "bye\n");
}

static void a_job_that_stops_is_not_waited_for(void)
{
    struct shell shell;
    run_one(&shell, "kill -STOP $$", PATIENCE_MS);
    CHECK_INT(shell.job.stopped_by, SIGSTOP);
    CHECK(!shell.job.timed_out);
    CHECK_INT(shell.job.status, SIGKILL);
}

static void a_grandchild_that_keeps_the_pipe_is_not_waited_for(void)
{
    struct shell shell;
    char dir[] = "/tmp/usernsctl-test-XXXXXX", path[64], script[160];
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/fifo", dir);
    CHECK_INT(mkfifo(path, 0600), 0);
    /* The grandchild exits once the test closes this end of the FIFO. */
    int end = open(path, O_RDWR | O_CLOEXEC);
    CHECK(end >= 0);
    snprintf(script, sizeof script, "exec 3<%s; cat <&3 & echo started", path);
    init_shell(&shell, script);
    CHECK_OK(un_run_jobs(&shell.job, 1, PATIENCE_MS, &err), &err);
    CHECK(!shell.job.timed_out);
    CHECK_TEXT(shell.output, "started\n");
    CHECK_INT(shell.job.status, 0);
    close(end);
    CHECK_INT(unlink(path), 0);
    CHECK_INT(rmdir(dir), 0);
    check_no_child_left();
}

/* Checks that jobs run in parallel. Each job waits for the other, so they would never exit if they
 * ran one after the other. */
static void jobs_run_at_the_same_time(void)
{
    struct shell shells[2];
    struct un_job jobs[2];
    char dir[] = "/tmp/usernsctl-test-XXXXXX", path[2][64], script[2][160];
    CHECK(mkdtemp(dir) != NULL);
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/%d", dir, i);
        CHECK_INT(mkfifo(path[i], 0600), 0);
    }
    snprintf(script[0], sizeof script[0], "read x <%s; echo $x; echo b >%s", path[0], path[1]);
    snprintf(script[1], sizeof script[1], "echo a >%s; read x <%s; echo $x", path[0], path[1]);
    for (int i = 0; i < 2; i++) {
        init_shell(&shells[i], script[i]);
        jobs[i] = shells[i].job;
    }
    CHECK_OK(un_run_jobs(jobs, 2, PATIENCE_MS, &err), &err);
    CHECK_TEXT(shells[0].output, "a\n");
    CHECK_TEXT(shells[1].output, "b\n");
    for (int i = 0; i < 2; i++) {
        CHECK_INT(jobs[i].status, 0);
        CHECK_INT(unlink(path[i]), 0);
    }
    CHECK_INT(rmdir(dir), 0);
    check_no_child_left();
}

static void a_job_that_hangs_does_not_hide_how_the_other_one_ended(void)
{
    struct shell shells[2];
    struct un_job jobs[2];
    for (int ms = 300; ms <= PATIENCE_MS; ms *= 5) {
        init_shell(&shells[0], "exec sleep 1000");
        init_shell(&shells[1], "echo no; exit 4");
        for (int i = 0; i < 2; i++)
            jobs[i] = shells[i].job;
        CHECK_OK(un_run_jobs(jobs, 2, ms, &err), &err);
        if (!jobs[1].timed_out)
            break;
    }
    CHECK(jobs[0].timed_out);
    CHECK(!jobs[1].timed_out);
    CHECK_INT(jobs[1].status, 4);
    CHECK_TEXT(shells[1].output, "no\n");
    check_no_child_left();
}

static void a_job_inherits_no_input_descriptor_or_environment(void)
{
    struct shell shell;
    int fd = open("/", O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0);
    CHECK_INT(setenv("SECRET", "x", 1), 0);
    run_one(&shell, "cat; ls /proc/self/fd | tr '\\n' ' '; echo ${SECRET-none}", PATIENCE_MS);
    /* `ls` also lists descriptor 3, by which it has opened /proc/self/fd itself. */
    CHECK_TEXT(shell.output, "0 1 2 3 none\n");
    CHECK_INT(unsetenv("SECRET"), 0);
    close(fd);
}

static void a_program_that_is_not_there_leaves_none_running(void)
{
    struct shell shells[2];
    struct un_job jobs[2];
    init_shell(&shells[0], "exec sleep 1000");
    init_shell(&shells[1], "");
    shells[1].argv[0] = "/no/such/program";
    for (int i = 0; i < 2; i++)
        jobs[i] = shells[i].job;
    int before = dup(0);
    close(before);
    CHECK_INT(un_run_jobs(jobs, 2, PATIENCE_MS, &err), -1);
    CHECK_INT(err.step, UN_STEP_LOOKUP);
    CHECK_HAS(err.detail, "/no/such/program");
    check_no_child_left();
    int after = dup(0);
    close(after);
    CHECK_INT(after, before);
}

/* Actions of SIGCHLD with which the kernel itself reaps the children of a process and discards
 * their exit status. */
static const struct sigaction reaping[] = {
    {.sa_handler = SIG_IGN},
    {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT},
};

static void a_job_is_waited_for_where_the_kernel_reaps_children(void)
{
    static const char *const grep[] = {"/bin/grep", "SigBlk", "/proc/self/status", NULL};
    struct shell shell;
    struct sigaction before, after;
    sigset_t blocked, mask;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    CHECK_INT(sigprocmask(SIG_SETMASK, &blocked, &mask), 0);
    CHECK_INT(sigaction(SIGCHLD, NULL, &before), 0);
    for (size_t i = 0; i < COUNT(reaping); i++) {
        CHECK_INT(sigaction(SIGCHLD, &reaping[i], NULL), 0);
        run_one(&shell, "echo said; exit 3", PATIENCE_MS);
        CHECK_INT(shell.job.ended, CLD_EXITED);
        CHECK_INT(shell.job.status, 3);
        CHECK_TEXT(shell.output, "said\n");

        /* Execute grep without a shell, because a shell might unblock signals. */
        init_shell(&shell, "");
        memcpy(shell.argv, grep, sizeof grep);
        CHECK_OK(un_run_jobs(&shell.job, 1, PATIENCE_MS, &err), &err);
        CHECK_TEXT(shell.output, "SigBlk:\t0000000000000800\n");

        run_one(&shell, "kill -SEGV $$", PATIENCE_MS);
        CHECK_INT(shell.job.status, SIGSEGV);

        run_one(&shell, "exec sleep 1000", 100);
        CHECK(shell.job.timed_out);

        init_shell(&shell, "");
        shell.argv[0] = "/no/such/program";
        CHECK_INT(un_run_jobs(&shell.job, 1, PATIENCE_MS, &err), -1);
        CHECK_INT(err.step, UN_STEP_LOOKUP);

        CHECK_INT(sigaction(SIGCHLD, NULL, &after), 0);
        CHECK(after.sa_handler == reaping[i].sa_handler);
        CHECK_INT(after.sa_flags & SA_NOCLDWAIT, reaping[i].sa_flags);
    }
    CHECK_INT(sigaction(SIGCHLD, &before, NULL), 0);
    CHECK_INT(sigprocmask(SIG_SETMASK, &mask, NULL), 0);
}

/* Checks that if SIGCHLD is ignored, the kernel still reaps another child that exits while a job is
 * running. */
static void the_kernel_continues_to_reap_other_children(void)
{
    struct shell shell;
    char script[128];
    struct sigaction before;
    CHECK_INT(sigaction(SIGCHLD, &reaping[0], &before), 0);
    pid_t other = fork();
    CHECK(other >= 0);
    if (other == 0)
        for (;;)
            pause();
    snprintf(script, sizeof script,
             "kill -KILL %d; while [ -e /proc/%d ]; do sleep 0.01; done; exit 4", (int)other,
             (int)other);
    run_one(&shell, script, PATIENCE_MS);
    CHECK(!shell.job.timed_out);
    CHECK_INT(shell.job.status, 4);
    CHECK_INT(sigaction(SIGCHLD, &before, NULL), 0);
}

static void ignore_children(int signal_number)
{
    (void)signal_number;
    signal(SIGCHLD, SIG_IGN);
}

static int ignore_children_meanwhile(void *arg)
{
    struct shell shell;
    (void)arg;
    signal(SIGUSR1, ignore_children);
    init_shell(&shell, "kill -USR1 $PPID; "
                       "until grep -q 'SigIgn:.*1....$' /proc/$PPID/status; do :; done; exit 3");
    CHECK_OK(un_run_jobs(&shell.job, 1, PATIENCE_MS, &err), &err);
    CHECK(!shell.job.timed_out);
    return shell.job.ended == CLD_EXITED ? shell.job.status : 100 + shell.job.ended;
}

/* Checks that a job whose exit status is unknown is not taken for a successful one. */
static void a_lost_status_is_unknown(void)
{
    int status = forked(ignore_children_meanwhile, NULL);
    /* The job exits with status 3, which its pidfd provides since Linux 6.15 even after the job was
     * reaped. 100 means that the status is unknown. */
    CHECK(status == 3 || status == 100);
}

int main(void)
{
    a_lost_status_is_unknown();
    a_job_is_waited_for_where_the_kernel_reaps_children();
    the_kernel_continues_to_reap_other_children();
    the_output_and_status_of_a_job_are_returned();
    endless_output_is_read_and_discarded();
    a_job_that_hangs_is_killed_at_the_timeout();
    killed_and_exited_jobs_differ();
    a_job_that_stops_is_not_waited_for();
    a_grandchild_that_keeps_the_pipe_is_not_waited_for();
    jobs_run_at_the_same_time();
    a_job_that_hangs_does_not_hide_how_the_other_one_ended();
    a_job_inherits_no_input_descriptor_or_environment();
    a_program_that_is_not_there_leaves_none_running();
    return 0;
}
