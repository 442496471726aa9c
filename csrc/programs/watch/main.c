/*
 * usernsctl-watch [--reraise-signal] PROGRAM ERRORS CRASH DEBUG BUNDLE -- [KILL...] -- COMMAND...
 *
 * Runs COMMAND, which is a runsc, in a child, passes signals on to it, and ends with its exit
 * status. That is the command's if runsc's own log says that it came to its end. Otherwise runsc
 * has failed, whatever its status, and the four files tell why (explain.c).
 *
 * With KILL, a signal is passed on by running KILL with its number as one more argument: `runsc
 * run` itself would end at a signal, and what it runs could not catch it.
 *
 * With --reraise-signal, the signal that killed the command kills the watcher as well: runsc itself
 * makes 128+N of signal N, as if the command had exited so, but its log tells which of both it was.
 *
 * PROGRAM is what is executed for KILL and COMMAND, whatever their first words are: it may lead to
 * a descriptor that we were given, which none of them inherits.
 */
#include "explain/explain.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"
#include "sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KILL_MAX 32
#define KILL_TIMEOUT_MS 10000

extern char **environ;

/* The two commands, each ended by NULL, what they execute, what runsc writes its failures to, and
 * the signal in whose place SIGTERM has been sent, or 0. */
struct words {
    const char *program;
    char **files;
    char **kill;
    char **command;
    int early;
    bool reraise_signal; /* whether to end by the signal that killed the command */
    bool signalled;      /* whether runsc itself may have ended of a signal that was passed on */
};

static int fail_watch(const struct un_error *err)
{
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

/* Returns why the kernel does not execute a runsc. What can't be executed is no command of a
 * user's. */
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

/* Only returns if it failed, and has told so. */
static int become_runsc(const struct words *words)
{
    struct un_command command = command_of(words->program, words->command);
    struct un_error err;
    un_exec(&command, &err);
    err.step = UN_STEP_RUNSC;
    err.cause = cause_of_start(err.errnum);
    explain_no_more(words->files);
    return fail_watch(&err);
}

/* What is to be said of an end with this status, and the status that is ours. `before` are the hits
 * of all limits before the start. */
static int judge_runsc(const struct words *words, int status, const uint64_t before[UN_LIMIT_COUNT])
{
    const char *cause = "";
    bool hit[UN_LIMIT_COUNT];
    for (enum un_limit i = 0; i < UN_LIMIT_COUNT; i++)
        if ((hit[i] = status && un_limit_hits(i) > before[i]))
            cause = un_limit_cause(i);
    bool may_be_own = status == UN_RUNSC_FAILED || status == UN_RUNSC_CRASHED;
    bool was_stopped = words->signalled && status > 128;
    int ignored;
    if (may_be_own || !(was_stopped || un_runsc_has_ended(words->files[DEBUG], &ignored)))
        return explain_runsc(words->files, status, cause);
    /* gVisor may have gone on without the process that was killed, and the command have failed. */
    if (hit[UN_LIMIT_MEMORY]) {
        fputs("usernsctl: the kernel killed a process of the sandbox, since memory ran out\n",
              stderr);
        report_cause(un_limit_cause(UN_LIMIT_MEMORY));
    }
    return status;
}

/* Returns the signal that killed the command, or runsc when that was passed on to it; 0: none did.
 */
static int fatal_signal(const struct words *words, int wait_status)
{
    if (words->early && un_exit_status_of(wait_status) == 128 + SIGTERM)
        return words->early;
    /* Without this log, runsc's own end counts. */
    un_runsc_has_ended(words->files[DEBUG], &wait_status);
    return WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
}

/* Only returns if it failed. Who kills us means the command. */
static int become_child(const struct words *words, int parent_pidfd)
{
    struct un_error err;
    if (un_die_with_parent(SIGKILL, parent_pidfd, &err))
        return fail_watch(&err);
    /* What the terminal sends comes through KILL. */
    if (*words->kill) {
        signal(SIGINT, SIG_IGN);
        signal(SIGQUIT, SIG_IGN);
    }
    un_make_fd_room();
    un_limit_open_files(UN_SANDBOX_FILES_MAX);
    return become_runsc(words);
}

/* Starts KILL with this standard error: a pidfd, or -1. */
static int start_kill(const char *program, char **words, int sig, int errors)
{
    char number[12];
    char *argv[KILL_MAX];
    size_t count = 0;
    for (; words[count]; count++)
        argv[count] = words[count];
    snprintf(number, sizeof number, "%d", sig);
    argv[count++] = number;
    argv[count] = NULL;

    struct un_spawn spawn;
    struct un_error err;
    pid_t pid;
    int pidfd;
    un_spawn_init(&spawn);
    spawn.command = command_of(program, argv);
    spawn.stdio[2] = errors;
    return un_spawn(&spawn, &pid, &pidfd, &err) ? -1 : pidfd;
}

/* Returns whether KILL could deliver the signal. It asks a sandbox that may not answer, and while
 * we wait for it we notice nothing else. */
static bool run_kill(const char *program, char **words, int sig)
{
    siginfo_t end;
    /* That the sandbox is not there yet is told by the status alone, so nobody reads this. Not
     * /dev/null: it may be another file, which would have us wait. */
    int nowhere[2] = {-1, -1};
    bool known = false;
    if (pipe2(nowhere, O_CLOEXEC | O_NONBLOCK))
        return false;
    int pidfd = start_kill(program, words, sig, nowhere[1]);
    if (pidfd >= 0) {
        bool in_time = un_wait_readable(pidfd, KILL_TIMEOUT_MS) > 0;
        known = in_time ? un_reap(pidfd, &end) : un_kill_and_reap(pidfd, &end);
        close(pidfd);
    }
    un_close_each(nowhere, 2);
    return known && end.si_code == CLD_EXITED && end.si_status == 0;
}

static void pass_on_by_runsc(pid_t child, const siginfo_t *info, void *arg)
{
    struct words *words = arg;
    int sig = info->si_signo;
    bool stops = sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU || sig == SIGCONT;
    words->signalled = words->signalled || !stops;
    if (!*words->kill || stops)
        un_pass_on_by_kill(child, info, NULL);
    /* Before the command has started there is nobody to catch it, and runsc ignores these two. */
    else if (!run_kill(words->program, words->kill, sig)) {
        bool is_ignored = sig == SIGINT || sig == SIGQUIT;
        words->early = is_ignored ? sig : 0;
        kill(child, is_ignored ? SIGTERM : sig);
    }
}

/* Cuts argv at its first two "--". */
static bool split(int argc, char **argv, struct words *words)
{
    char **start[2] = {NULL, NULL};
    int found = 0;
    bool reraise_signal = false;
    for (; argc > 2 && !strcmp(argv[1], UN_RERAISE_SIGNAL); argc--, argv++)
        reraise_signal = true;
    for (int i = 2; i < argc && found < 2; i++)
        if (!strcmp(argv[i], "--")) {
            argv[i] = NULL;
            start[found++] = argv + i + 1;
        }
    *words = (struct words){
        .program = argv[1],
        .files = argv + 2,
        .kill = start[0],
        .command = start[1],
        .reraise_signal = reraise_signal,
    };
    return found == 2 && words->kill - words->files == FILES + 1 && *words->command &&
           words->command - words->kill < KILL_MAX;
}

int main(int argc, char **argv)
{
    struct words words;
    struct un_error err;
    struct un_supervision how = {.pass_on = pass_on_by_runsc, .arg = &words};
    uint64_t hits[UN_LIMIT_COUNT];
    for (enum un_limit i = 0; i < UN_LIMIT_COUNT; i++)
        hits[i] = un_limit_hits(i);
    if (argc < 2 || !split(argc, argv, &words)) {
        fputs("usage: usernsctl-watch [--reraise-signal] PROGRAM ERRORS CRASH DEBUG BUNDLE -- "
              "[KILL...] -- COMMAND...\n",
              stderr);
        return 125;
    }
    /* What we are given is for us alone. */
    un_close_fds_at_exec(NULL, 0, &err);
    pid_t child = un_supervise(&how, &err);
    if (child < 0)
        return fail_watch(&err);
    if (child == 0)
        return become_child(&words, how.parent_pidfd);
    int status = un_exit_status_of(how.wait_status);
    if (words.early && status == 128 + SIGTERM)
        status = 128 + words.early;
    int ours = judge_runsc(&words, status, hits);
    int sig = words.reraise_signal && ours == status ? fatal_signal(&words, how.wait_status) : 0;
    if (sig)
        un_reraise(sig);
    return ours;
}
