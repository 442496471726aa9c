/*
 * usernsctl-watch [OPTION...] PROGRAM ERRORS CRASH DEBUG BUNDLE -- [KILL...] -- [RAISE...] --
 * [--network PROGRAM [OPTION...] --] COMMAND...
 *
 * usernsctl-watch [--log=json] --health [COMMAND...] (health.c)
 *
 * Runs COMMAND, which is `runsc run`, in a child, forwards signals to it, and exits with its exit
 * status. If runsc's log shows a normal exit, this is the exit status of the command in the
 * sandbox. Otherwise runsc has failed, whatever its exit status is, and the watcher determines the
 * cause from runsc's error log ERRORS, crash report CRASH and debug log DEBUG, and from config.json
 * in the directory BUNDLE (explain.c).
 *
 * With KILL, the watcher forwards a signal by running KILL with the signal number as an additional
 * argument. A signal to `runsc run` itself would kill runsc, and the command in the sandbox could
 * not handle it. RAISE is run in the same way for real-time signals, which `runsc kill` does not
 * support.
 *
 * With --reraise-signal, the watcher kills itself with the signal that killed the command. runsc
 * itself exits with status 128+N after signal N, but its log distinguishes a signal from such an
 * exit status.
 *
 * With --log=json, messages are printed as JSON (report.c).
 *
 * With --max-output=BYTES[,kill], the output is limited (pump.c). With
 * --result=DIRECTORY,FD,TEMPORARY,NAME, the watcher writes the result to a file (result.c). With
 * --denied=FD, the result contains the number of denied connections, which the watcher reads from
 * the beginning of the file FD.
 *
 * With --terminal, the command has a terminal. runsc itself then forwards the signals of the
 * terminal's keys, such as Ctrl-C, to the foreground process group in the sandbox.
 *
 * With --start-timeout=SECONDS, the watcher kills runsc if the sandbox has not started after this
 * time; 0 means no timeout (start_limit.c).
 *
 * If the kernel's OOM killer kills a process of gVisor, the other processes of gVisor may hang
 * forever. The watcher then kills all of them, reports the cause, and exits with status 137. The
 * watcher does the same if the sandbox exceeds one of its limits (--limits=LIMITS), but exits with
 * status 124 if that limit is the timeout.
 *
 * With --network, the watcher first creates the network of the sandbox (shared.h, network_join()).
 *
 * PROGRAM is the path of the executable for KILL, RAISE and COMMAND: the first argument of each is
 * used only as argv[0]. PROGRAM may be the /proc path of an inherited descriptor, which the
 * children do not inherit.
 */
#include "base/base.h"
#include "explain/explain.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"
#include "sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Number of the kernel's first real-time signal, which is lower than SIGRTMIN of a libc. */
#define REALTIME_MIN 32
/* Timeout in ms of the command KILL or RAISE. */
#define KILL_TIMEOUT_MS 10000
/* Timeout in ms for the exit of gVisor's other processes after the exit of gVisor's kernel. */
#define REAP_MS 200
/* Time in ms before the command's end. If a terminating signal arrives within this time, and can't
 * be delivered to the command, the watcher waits only a limited time for the reader of the output
 * (pump_wait()). */
#define UNDELIVERED_MS 5000

extern char **environ;

/* Minimum number of processes and threads that the control group must allow in addition to the
 * existing ones. With fewer, runsc crashes, and prints the stacks of its threads. With more, but
 * fewer than a sandbox needs (SANDBOX_PROCESSES), explain.c explains the failure. */
#define PIDS_MIN 16

static int fail_watch(struct un_error *err)
{
    un_diagnose(err, "/proc");
    report_error("usernsctl", err);
    return un_exit_status(err);
}

static struct un_command command_of(const char *program, char **argv)
{
    return (struct un_command){
        .file = program,
        .argv = (const char *const *)argv,
        .envp = (const char *const *)environ,
    };
}

/* Returns the cause id for an errno with which execve(2) of runsc has failed, or NULL if the errno
 * has no known cause. */
static const char *cause_of_start(int errnum)
{
    switch (errnum) {
    case EACCES:
    case EPERM:
        return "runsc-not-executable";
    case ENOEXEC:
    case ENOENT:
    case ELIBBAD:
        return "not-runsc";
    default:
        return NULL;
    }
}

/* Executes runsc. On failure, reports the error and returns the exit status. */
static int become_runsc(const struct watch_args *args)
{
    struct un_command command = command_of(args->program, args->command);
    struct un_error err;
    un_exec(&command, &err);
    err.step = UN_STEP_RUNSC;
    err.cause = cause_of_start(err.errnum);
    mark_reported(args->files);
    return fail_watch(&err);
}

/* Returns the value of the member `reason` of the result (--result) for a cause id. */
static const char *reason_of(const char *cause)
{
    static const char *const reasons[] = {"memory-limit", "pids-limit", "output-limit", "timeout"};
    if (!strcmp(cause, un_limit_cause(UN_LIMIT_MEMORY)))
        return reasons[0];
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (!strcmp(cause, reasons[i]))
            return reasons[i];
    return "sandbox-ended";
}

/* Reports why the watcher has killed the sandbox, and stores the reason, the limit and the usage in
 * the result. Returns the exit status of the watcher. */
static int report_end(struct watch_args *args)
{
    const struct un_end *end = &args->end;
    report_message(
        (struct report){.program = "usernsctl", .message = end->text, .cause = end->reason});
    args->result.reason = reason_of(end->reason);
    args->result.limit = end->limit;
    args->result.used = end->used;
    return end_status(end);
}

/* Reports why runsc has failed, and stores the reason in the result. Returns the exit status of the
 * watcher. */
static int explain_failure(struct watch_args *args, int status, const char *cause)
{
    struct stat crash;
    bool is_lost;
    int ended, ours = explain_runsc(args->files, status, cause, &is_lost);
    /* Infer from the failure whether the sandbox had started. If so, there is a crash report, runsc
     * exits with 128+N after the signal N that killed the sandbox, or a full disk kept runsc from
     * logging the command's exit status. If not, runsc reports an error. */
    bool has_crashed = !stat(args->files[CRASH], &crash) && crash.st_size;
    bool had_started = status > 128 || has_crashed || is_lost;
    if (has_crashed || !un_runsc_has_ended(args->files[DEBUG], &ended))
        args->result.reason = had_started ? "sandbox-ended" : "start-failed";
    return ours;
}

/* Reports a failure of runsc, if any. Returns the exit status of the watcher. `forks` is the number
 * of failed forks that the control group had counted before the start. */
static int judge_runsc(struct watch_args *args, int status, uint64_t forks)
{
    if (args->end.reason || pump_is_over(&args->pump, &args->end) ||
        (status &&
         limit_watch_judge(&args->watch, sandbox_group_refused(&args->group), args->files[ERRORS],
                           args->files[CRASH], args->files[DEBUG], &args->end)))
        return report_end(args);
    bool no_memory = oom_watch_explains(&args->oom, status);
    bool no_process = status && un_limit_hits(UN_LIMIT_PIDS) > forks;
    const char *cause = no_memory    ? un_limit_cause(UN_LIMIT_MEMORY)
                        : no_process ? un_limit_cause(UN_LIMIT_PIDS)
                                     : "";
    bool may_be_own = status == UN_RUNSC_FAILED || status == UN_RUNSC_CRASHED;
    bool was_stopped = args->signalled && status > 128;
    bool is_killed = no_memory && status == 128 + SIGKILL;
    int ignored;
    if (!is_killed &&
        (may_be_own || !(was_stopped || un_runsc_has_ended(args->files[DEBUG], &ignored))))
        return explain_failure(args, status, cause);
    if (!no_memory)
        return status;
    /* Report an OOM kill that the watcher had not noticed when runsc exited. */
    oom_describe(&args->group, &args->limits, &args->end);
    return report_end(args);
}

/* Returns the shorter of two times in ms, where -1 means unlimited. */
static int shorter(int left, int right)
{
    return left < 0 || (right >= 0 && right < left) ? right : left;
}

/* Returns whether the watcher has decided to kill all processes of the sandbox. */
static bool is_given_up(const struct watch_args *args)
{
    return args->end.reason || args->start.is_over;
}

/* Returns whether the sandbox must be killed. args->end then describes the reason, unless the
 * reason is that the sandbox has not started in time. */
static bool must_end(struct watch_args *args, pid_t child)
{
    if (oom_watch_check(&args->oom, child)) {
        oom_describe(&args->group, &args->limits, &args->end);
        return true;
    }
    if (args->network >= 0 && un_wait_readable(args->network, 0) > 0) {
        network_describe_end(&args->end);
        return true;
    }
    return limit_watch_check(&args->watch, child, &args->end) ||
           pump_is_over(&args->pump, &args->end) ||
           start_limit_is_over(&args->start, args->command);
}

/* Returns whether a terminating signal came too late for the command, that is, after its end, or so
 * shortly before its end that runsc did not deliver the signal. */
static bool is_terminated_at_end(const struct watch_args *args, const struct un_supervision *how)
{
    return how->is_terminated_late ||
           (args->undelivered && un_now_ms() - args->undelivered < UNDELIVERED_MS);
}

/* Kills runsc if the sandbox must be killed. supervise_runsc() kills the other processes after
 * runsc has exited. Returns the time in ms after which this function must be called again, or -1 if
 * no further call is needed. */
static int kill_if_due(pid_t child, void *arg)
{
    struct watch_args *args = arg;
    if (is_given_up(args))
        return -1;
    if (must_end(args, child)) {
        adopt_descendants();
        kill(child, SIGKILL);
        return -1;
    }
    return shorter(shorter(oom_watch_interval(&args->oom), limit_watch_interval(&args->watch)),
                   start_limit_interval(&args->start));
}

/* Returns SIGKILL if the watcher has killed the sandbox for a reason other than a timeout.
 * Otherwise returns the signal that killed the command, or the forwarded signal that killed runsc,
 * or 0 if there is no such signal. */
static int fatal_signal(const struct watch_args *args, int wait_status)
{
    if (args->end.reason)
        return end_status(&args->end) == 128 + SIGKILL ? SIGKILL : 0;
    if (args->early && un_exit_status_of(wait_status) == 128 + SIGTERM)
        return args->early;
    /* Prefer the wait status in runsc's log to that of runsc itself. */
    un_runsc_has_ended(args->files[DEBUG], &wait_status);
    return WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
}

/* Sets up the child, and executes runsc. Returns only on failure, with the exit status. A
 * parent-death signal kills the child, so that even a SIGKILL to the watcher ends the command. */
static int become_child(const struct watch_args *args, int parent_pidfd)
{
    struct un_error err;
    if (un_die_with_parent(SIGKILL, parent_pidfd, &err))
        return fail_watch(&err);
    if (sandbox_group_enter(&args->group)) {
        un_fail_errno(&err, UN_STEP_SANDBOX, "cgroup.procs");
        mark_reported(args->files);
        return fail_watch(&err);
    }
    /* Make runsc ignore the signals of the watcher's terminal, such as that of Ctrl-C. Without a
     * terminal for the command, the watcher forwards these signals by KILL. */
    if (*args->kill && !args->has_terminal) {
        signal(SIGINT, SIG_IGN);
        signal(SIGQUIT, SIG_IGN);
    }
    if (pump_join(&args->pump)) {
        un_fail_errno(&err, UN_STEP_STDIO, "dup2");
        return fail_watch(&err);
    }
    un_make_fd_room();
    if (un_limit_open_files(UN_SANDBOX_FILES_MAX)) {
        un_fail_errno(&err, UN_STEP_RUNSC, "RLIMIT_NOFILE");
        return fail_watch(&err);
    }
    return become_runsc(args);
}

/* Starts `program` with the argv `args`, which is KILL or RAISE, and with the number `sig` as an
 * additional argument. streams[0] is the standard input of the process, streams[1] its standard
 * output and error. Returns a pidfd of the process, or -1. */
static int start_kill(const char *program, char **args, int sig, const int streams[2])
{
    char number[12];
    char *argv[KILL_MAX];
    size_t count = 0;
    for (; args[count]; count++)
        argv[count] = args[count];
    snprintf(number, sizeof number, "%d", sig);
    argv[count++] = number;
    argv[count] = NULL;

    struct un_spawn spawn;
    struct un_error err;
    pid_t pid;
    int pidfd;
    un_spawn_init(&spawn);
    spawn.command = command_of(program, argv);
    spawn.stdio[0] = streams[0];
    spawn.stdio[1] = spawn.stdio[2] = streams[1];
    return un_spawn(&spawn, &pid, &pidfd, &err) ? -1 : pidfd;
}

/* Runs `program` as start_kill() describes. Kills the program after a timeout, because the sandbox
 * might never answer, and the watcher does nothing else meanwhile. Returns whether the signal was
 * delivered. */
static bool run_kill(const char *program, char **args, int sig)
{
    siginfo_t end;
    /* Discard error messages in a pipe that nobody reads, because the exit status suffices. Do not
     * use /dev/null, which may have been replaced by a file that blocks the writer. */
    int nowhere[2] = {-1, -1};
    bool known = false;
    if (!*args || pipe2(nowhere, O_CLOEXEC | O_NONBLOCK))
        return false;
    int pidfd = start_kill(program, args, sig, nowhere);
    if (pidfd >= 0) {
        bool in_time = un_wait_readable(pidfd, KILL_TIMEOUT_MS) > 0;
        known = in_time ? un_reap(pidfd, &end) : un_kill_and_reap(pidfd, &end);
        close(pidfd);
    }
    un_close_each(nowhere, 2);
    return known && end.si_code == CLD_EXITED && end.si_status == 0;
}

/* Sends to runsc itself a signal that could not be delivered to the command, because the command
 * has not started. */
static void signal_runsc(struct watch_args *args, pid_t child, int sig)
{
    /* Send SIGTERM instead of SIGINT and SIGQUIT, which runsc ignores without a terminal. Drop
     * real-time signals: they would kill runsc, but not a command that is PID 1 of the sandbox
     * (pid_namespaces(7)). */
    bool is_ignored = !args->has_terminal && (sig == SIGINT || sig == SIGQUIT);
    if (sig >= REALTIME_MIN)
        return;
    args->early = is_ignored ? sig : 0;
    kill(child, is_ignored ? SIGTERM : sig);
}

static void pass_on_by_runsc(pid_t child, const siginfo_t *info, void *arg)
{
    struct watch_args *args = arg;
    int sig = info->si_signo;
    bool is_job_control = sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU || sig == SIGCONT;
    args->signalled = args->signalled || !is_job_control;
    bool is_of_runsc = !*args->kill || (args->has_terminal && info->si_code == SI_KERNEL);
    /* Also stop and continue runsc, so that the shell that has started the watcher sees a stopped
     * job. If the command has a terminal, the shell is in the sandbox, and runsc would forward the
     * signal again. */
    if (is_of_runsc || (is_job_control && !args->has_terminal))
        un_pass_on_by_kill(child, info, NULL);
    if (is_of_runsc)
        return;
    bool delivered = run_kill(args->program, sig < REALTIME_MIN ? args->kill : args->raise, sig);
    /* Do not record an ignored signal as undelivered: a command that has not started yet will
     * ignore the signal, as this process does. */
    if (un_is_ignored(sig))
        return;
    if (un_is_terminating(sig))
        args->undelivered = delivered ? 0 : un_now_ms();
    if (!delivered && !is_job_control)
        signal_runsc(args, child, sig);
}

/* Forks the child for runsc, and waits for its exit. Returns 0 in the child. In the parent, returns
 * the pid of the child, or -1 with the error in `err`. */
static pid_t supervise_runsc(struct watch_args *args, struct un_supervision *how,
                             struct un_error *err)
{
    uint64_t left = un_pids_left();
    if (left < PIDS_MIN)
        return un_fail(err, UN_STEP_RUNSC, 0, "process-limit",
                       "the control group allows %" PRIu64 " more processes; a sandbox needs %d",
                       left, SANDBOX_PROCESSES);
    if ((args->pump.limit && pump_start(&args->pump, err)) ||
        sandbox_group_make(&args->group, &args->limits, err))
        return -1;
    /* Adopt the processes that runsc leaves behind, because the result contains the CPU time of all
     * processes. */
    if (args->result_file.name)
        adopt_descendants();
    limit_watch_begin(&args->watch, &args->limits);
    oom_watch_begin(&args->oom, &args->group);
    start_limit_begin(&args->start);
    struct un_checkup checkup = {.check = kill_if_due, .arg = args, .fd = -1};
    checkup.signals = args->oom.has_events ? un_open_signals() : -1;
    /* Without a signalfd, read the OOM kill counter at intervals. */
    args->oom.has_events = checkup.signals >= 0;
    checkup.fd = args->oom.has_events ? args->oom.fd : -1;
    how->pass_on = pass_on_by_runsc;
    how->arg = args;
    how->checkup = &checkup;
    pid_t child = un_supervise(how, err);
    how->checkup = NULL;
    if (args->pump.pid)
        children_add(&args->spared, args->pump.pid);
    if (child > 0 && is_given_up(args))
        kill_descendants(&args->spared);
    if (child > 0)
        pump_wait(&args->pump, is_given_up(args) || is_terminated_at_end(args, how));
    if (child > 0 && args->start.is_over)
        return un_fail(err, UN_STEP_RUNSC, 0, "runsc-hung",
                       "runsc had not started the sandbox after %" PRIu32 " s",
                       args->start.seconds);
    return child;
}

/* Returns the exit status of the watcher after the exit of runsc. Stores the reason and the signal
 * in the result. */
static int judge(struct watch_args *args, int wait_status, uint64_t forks)
{
    int status = un_exit_status_of(wait_status);
    if (args->early && status == 128 + SIGTERM)
        status = 128 + args->early;
    args->result.reason = "exited";
    int ours = judge_runsc(args, status, forks);
    int sig = ours == status ? fatal_signal(args, wait_status) : 0;
    if (sig && !args->end.reason)
        args->result.reason = WIFSIGNALED(wait_status) || args->early ? "killed" : "signalled";
    args->result.signal = ours == 128 + SIGKILL && args->end.reason ? SIGKILL : sig;
    return ours;
}

/* Removes the control groups and other leftovers of the sandbox, writes the result, and returns the
 * exit status. Blocks signals, so that Ctrl-C does not interrupt the cleanup. */
static int finish(struct watch_args *args, int status)
{
    siginfo_t ignored;
    uint64_t signals = un_block_signals();
    args->result.status = status;
    args->result.peak = sandbox_group_has(&args->group, UN_GROUP_MEMORY)
                            ? sandbox_group_peak(&args->group)
                            : args->watch.peak;
    sandbox_group_remove(&args->group);
    /* Kill usernsctl-network and wait for its exit, which ends all processes of the network,
     * because the next sandbox may publish the same ports. */
    if (args->network >= 0)
        un_kill_and_reap(args->network, &ignored);
    /* Reap all processes of the sandbox, whose CPU time the result must include. */
    if (args->result_file.name)
        reap_descendants(&args->spared, REAP_MS);
    for (int i = 0; i < 2; i++)
        args->result.truncated[i] = pump_truncated(&args->pump, i);
    int failed = result_write(&args->result_file, &args->result);
    un_discard_signals();
    un_set_signals(signals);
    pump_report(&args->pump);
    return failed ? SANDBOX_FAILED : status;
}

/* Runs the command in the sandbox. Returns the exit status of the watcher. `forks` is the number of
 * failed forks that the control group had counted before the start. */
static int watch(struct watch_args *args, uint64_t forks)
{
    struct un_error err, ignored;
    struct un_supervision how = {.parent_pidfd = -1};
    /* Open /dev/null as each of the descriptors 0 to 2 that is closed. The caller may have closed a
     * descriptor, or have set close-on-exec on it. */
    if (un_fill_stdio()) {
        un_fail_errno(&err, UN_STEP_STDIO, "/dev/null");
        return fail_watch(&err);
    }
    /* Remember the children that this process already has, and must not kill. If a shell has
     * replaced itself by this program (exec), the children belong to the shell. */
    children_read(&args->spared);
    getrusage(RUSAGE_CHILDREN, &args->result.before);
    bool has_failed = network_join(&args->command, &args->network, &err);
    /* Keep runsc from inheriting descriptors that only the watcher and usernsctl-network need. */
    un_close_fds_at_exec(NULL, 0, &ignored);
    uint64_t signals = un_signal_mask();
    keep_early_signals();
    pid_t child = has_failed ? -1 : supervise_runsc(args, &how, &err);
    un_discard_signals();
    un_set_signals(signals);
    if (child == 0)
        return become_child(args, how.parent_pidfd);
    if (child < 0) {
        args->result.reason = "start-failed";
        return finish(args, fail_watch(&err));
    }
    int ours = finish(args, judge(args, how.wait_status, forks));
    if (args->reraise_signal && args->result.signal)
        un_reraise(args->result.signal);
    return ours;
}

static bool is_health(const char *word)
{
    return !strcmp(word, "--health");
}

int main(int argc, char **argv)
{
    struct watch_args args;
    uint64_t forks = un_limit_hits(UN_LIMIT_PIDS);
    for (int i = 1; i < argc && un_begins(argv[i], "--") && !is_health(argv[i]); i++)
        if (!strcmp(argv[i], UN_LOG_JSON))
            report_in_json();
    bool has_log = argc > 1 && !strcmp(argv[1], UN_LOG_JSON);
    if (argc > has_log + 1 && is_health(argv[has_log + 1]))
        return check_health(argv + has_log + 2);
    if (argc < 2 || !split_watch_args(argc, argv, &args)) {
        fputs(
            "usage: usernsctl-watch [OPTION...] PROGRAM ERRORS CRASH DEBUG BUNDLE -- [KILL...] -- "
            "[RAISE...] -- COMMAND...\n",
            stderr);
        return SANDBOX_FAILED;
    }
    return watch(&args, forks);
}
