/*
 * usernsctl-exec creates a user namespace, and executes a command in the same process.
 *
 * Without --fork, no parent process remains, so if usernsctl-exec is PID 1 of a container, the
 * command becomes PID 1.
 */
#include "base/base.h"
#include "child/child.h"
#include "programs/exec/exec.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <sched.h>
#include <sys/wait.h>

extern char **environ;

static void print_error(const struct un_error *err)
{
    report_error("usernsctl-exec", err);
}

static int enter_namespaces(struct un_options *options, struct un_error *err)
{
    /* Use a static structure, because it does not fit a small stack, and allocating it would take
     * additional system calls. */
    static struct decision decision;
    /* Use secure_getenv(3), which ignores PATH if this program has more privileges than its
     * caller. */
    if (un_exec_plan(&options->request, secure_getenv("PATH"), &decision, err))
        return -1;
    /* Close the descriptors before entering the namespaces, because a process in the namespaces
     * could copy these descriptors (pidfd_getfd(2)). The memory of this process need not be
     * cleared, because it contains only data that the command receives anyway. */
    bool holds = options->hold >= 0;
    if (un_close_fds(holds ? &options->hold : options->keep, holds ? 1 : options->keep_count, err))
        return -1;
    return un_exec_enter(&decision, options->flags, &options->setup, err);
}

/* Sets up this process, and executes the command. Returns only on failure, with -1 and the error in
 * `err`. */
static int exec_command(const struct un_options *options, struct un_error *err)
{
    struct un_command command = {
        .file = options->command[0],
        .path = getenv("PATH"),
        .argv = options->command,
        .envp = (const char *const *)environ,
    };
    return un_setup_apply(&options->setup, err) ? -1 : un_exec(&command, err);
}

/* Finds the cause of the error. Without a cause, sets the remedy for a missing directory of --root
 * or --mount-proc. */
static void explain_exec_failure(struct un_error *err)
{
    un_diagnose(err, "/proc");
    bool is_missing = err->errnum == ENOENT || err->errnum == ENOTDIR;
    if (err->cause || !is_missing)
        return;
    if (err->step == UN_STEP_ROOT)
        strcpy(err->remedy, "create the directory, or name an existing directory: --root=DIR");
    else if (err->step == UN_STEP_MOUNT)
        strcpy(err->remedy, "create the directory, or name one below --root: --mount-proc=DIR");
}

static int report_failure(struct un_error *err)
{
    explain_exec_failure(err);
    print_error(err);
    return un_exit_status(err);
}

/* Sends the error to the process that requested the namespaces. Returns the exit status. */
static int report_hold_failure(int socket, struct un_error *err)
{
    explain_exec_failure(err);
    un_hold_report(socket, err);
    return un_exit_status(err);
}

/* Returns the exit status for the command's wait status. If a signal killed the command, and
 * `reraise_signal` is set, kills this process with the same signal instead. */
static int end_as(int wait_status, bool reraise_signal)
{
    if (reraise_signal && WIFSIGNALED(wait_status))
        un_reraise(WTERMSIG(wait_status));
    return un_exit_status_of(wait_status);
}

static int run_exec_command(struct un_options *options, struct un_error *err)
{
    if (enter_namespaces(options, err))
        return options->hold < 0 ? report_failure(err) : report_hold_failure(options->hold, err);
    if (options->hold >= 0)
        return un_hold(options, err) ? report_hold_failure(options->hold, err) : 0;
    if (options->fork) {
        struct un_supervision how = {
            .pass_on = un_pass_on_by_kill,
            .has_init = options->init,
            .init_deathsig = options->kill_child,
        };
        pid_t child = un_supervise(&how, err);
        if (child < 0)
            return report_failure(err);
        if (child > 0)
            return end_as(how.wait_status, options->reraise_signal);
        /* With --init, set no parent-death signal for the command: un_supervise() sets the signal
         * for PID 1 of the new PID namespace, and the exit of PID 1 kills the command. */
        options->setup.pdeathsig = options->init ? 0 : options->kill_child;
        options->setup.parent_pidfd = how.parent_pidfd;
    }
    exec_command(options, err);
    return report_failure(err);
}

/* Prints a text to standard output. Checks fflush(3), too, which may be the first call to report a
 * write error, such as a full disk. Returns the exit status. */
static int print_text(const char *text)
{
    struct un_error err;
    if (fputs(text, stdout) >= 0 && fflush(stdout) == 0)
        return 0;
    un_fail_errno(&err, UN_STEP_STDIO, "standard output");
    return report_failure(&err);
}

int main(int argc, char **argv)
{
    struct un_options options;
    struct un_error err;
    if (argc && !strcmp(argv[0], UN_CHILD_NAME))
        un_child_main(argv, environ);
    int failed = un_options_parse(argc, argv, &options, &err);
    if (options.log_json)
        report_in_json();
    if (options.hold >= 0)
        un_forget_environment(environ);
    if (failed)
        return options.hold < 0 ? report_failure(&err) : report_hold_failure(options.hold, &err);
    if (options.action == UN_HELP)
        return print_text(un_options_help);
    if (options.action == UN_VERSION)
        return print_text("usernsctl-exec " USERNSCTL_VERSION "\n");
    if (!options.launch)
        return run_exec_command(&options, &err);
    int status = un_exec_launch(&options);
    return status ? status
                  : print_text("Ready for a command in gVisor; runsc itself was not started\n");
}
