/*
 * usernsctl-exec --launch FILE starts a sandbox as the launch file FILE describes. A single process
 * performs all steps up to the execve(2) of usernsctl-watch.
 *
 * The launch file contains all decisions that were made when the file was written. The other
 * parameters are known only when the launch is performed: the command, its environment and working
 * directory, the host name, and the ids that the caller may map.
 */
#include "base/base.h"
#include "programs/exec/exec.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <signal.h>
#include <sys/mount.h>

extern char **environ;

/* The state of a launch that is being performed. Does not fit a small stack. */
struct performance {
    struct un_launch_file file;
    struct un_launch *launch;
    struct un_options ids;
    struct decision decision;
    struct launch_params params;
};

/* Parses the launch's options about id maps. Returns 0, or -1 with the error in `err`. */
static int read_ids(const struct un_launch *launch, struct un_options *options,
                    struct un_error *err)
{
    size_t count = launch->of_verb[UN_VERB_IDMAP];
    char **words = calloc(count + 3, sizeof *words);
    if (!words)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    int argc = 0;
    words[argc++] = (char *)"usernsctl-exec";
    UN_EACH_RECORD (record, launch, UN_VERB_IDMAP)
        words[argc++] = (char *)(uintptr_t)record->arguments;
    words[argc++] = (char *)"true";
    int failed = un_options_parse(argc, words, options, err);
    free(words);
    return failed;
}

/* Fails unless runsc will be root in the user namespace and the command's ids will be mapped. If
 * the user is given by name, un_launch_params_resolve() checks the ids later. Returns 0, or -1 with
 * the error in `err`. */
static int check_plan(struct performance *of, struct un_error *err)
{
    const struct un_plan *plan = &of->decision.plan;
    if (plan->become[UN_UID] != 0 || plan->become[UN_GID] != 0)
        return un_fail(
            err, UN_STEP_PLAN, 0, NULL,
            "the caller must be uid 0 and gid 0 inside: otherwise runsc has no capabilities");
    return un_config_check_user(of->launch, &of->params.base, &plan->map, err);
}

static int enter_for_launch(struct performance *of, struct un_error *err)
{
    struct un_setup setup;
    un_setup_init(&setup);
    setup.propagation = MS_PRIVATE;
    /* Do not search the caller's PATH, because a tenant who can set the environment of a container
     * must not choose the programs that run outside of gVisor. */
    if (read_ids(of->launch, &of->ids, err) ||
        un_exec_plan(&of->ids.request, NULL, &of->decision, err) || check_plan(of, err) ||
        un_exec_enter(&of->decision, un_ns_flag(UN_NS_MOUNT), &setup, err))
        return -1;
    return un_setup_apply(&setup, err);
}

/* Returns the command whose existence --check verifies. For a launch without a command, returns a
 * path in /proc, because no path in /proc is looked up: gVisor itself provides the /proc of the
 * sandbox. */
static const char *const *words_to_check(const struct un_launch *launch, const char *const *command)
{
    static const char *const any[] = {"/proc/self/exe", NULL};
    return *command || launch->of_verb[UN_VERB_ARG] ? command : any;
}

/* Fails if the launch exposes usernsctl's state directory, the directory of templates, or the
 * launch file to the sandbox. Returns 0, or -1 with the error in `err`. */
static int guard(const struct performance *of, struct un_error *err)
{
    char state[UN_PATH_MAX], templates[UN_PATH_MAX];
    if (!of->launch->of_verb[UN_VERB_BIND])
        return 0;
    if (un_state_directory(environ, state))
        return un_fail_errno(err, UN_STEP_BIND, "can't determine the path of the state directory");
    if (un_templates_directory(environ, templates))
        return un_fail_errno(err, UN_STEP_BIND,
                             "can't determine the path of the directory of templates");
    const struct un_hidden hidden = {state, *templates ? templates : NULL};
    return un_launch_guard(of->launch, of->file.fd, &hidden, err);
}

/* Opens the host files that the launch names. Fails if an assumption about the host that the launch
 * file records is no longer true, or if guard() finds exposed files. Returns 0, or -1 with the
 * error in `err`. */
static int open_launch_files(struct performance *of, const char *file, struct un_error *err)
{
    if (un_launch_open(of->launch, NULL, err))
        return un_launch_file_name(file, err);
    int failed = guard(of, err);
    close(of->file.fd);
    of->file.fd = -1;
    return failed;
}

static void ignore(int number)
{
    (void)number;
}

/* Catches SIGXFSZ, so that a write beyond RLIMIT_FSIZE fails with EFBIG instead of killing this
 * process. Does not ignore SIGXFSZ, because an ignored signal would stay ignored after
 * execve(2). */
static void survive_file_limit(void)
{
    const struct sigaction action = {.sa_handler = ignore};
    struct sigaction before;
    if (!sigaction(SIGXFSZ, &action, &before) && before.sa_handler == SIG_IGN)
        sigaction(SIGXFSZ, &before, NULL);
}

static int perform_and_exec(struct performance *of, const struct un_options *options,
                            struct un_error *err)
{
    const char *file = options->launch;
    const char *const *command = options->command;
    if (un_filter_check_launch(err) || un_open_missing_stdio(err))
        return -1;
    /* Close all descriptors, so that processes in the namespaces can't obtain descriptors of the
     * caller (pidfd_getfd(2)). */
    if (un_close_fds(NULL, 0, err) || un_launch_file_read(file, &of->file, &of->launch, err))
        return -1;
    if (options->check)
        command = words_to_check(of->launch, command);
    if (un_launch_params_collect(of->launch, command, environ, &of->params, err) ||
        un_launch_params_set_user(of->launch, options->run_as, &of->params, err) ||
        open_launch_files(of, file, err))
        return -1;
    if (!options->check)
        un_warn_of_volumes(of->launch);
    if (enter_for_launch(of, err) || un_launch_build(of->launch, &of->params.base, err) ||
        un_launch_params_resolve(of->launch, &of->decision.plan.map, &of->params, err))
        return -1;
    of->params.base.reraise_signal = options->reraise_signal;
    of->params.base.log_json = options->log_json;
    return options->check ? 0 : un_launch_exec(of->launch, &of->params.base, err);
}

/* Prints the error to standard error, with the remedy that the launch file contains, if any.
 * Returns the exit status. */
static int report_launch_failure(const struct performance *of, struct un_error *err)
{
    un_diagnose(err, "/proc");
    const char *remedy = of && of->launch ? un_launch_remedy(of->launch) : NULL;
    report_error_with("usernsctl-exec", err, remedy);
    return un_exit_status(err);
}

int un_exec_launch(const struct un_options *options)
{
    int status;
    struct un_error err;
    if (!options->check && stay_outside(&status)) {
        if (status < 0)
            un_fail_errno(&err, UN_STEP_CLONE, "fork");
        return status < 0 ? report_launch_failure(NULL, &err) : status;
    }
    struct performance *of = calloc(1, sizeof *of);
    if (getpid() == 1)
        keep_early_signals();
    survive_file_limit();
    if (of)
        of->file.fd = -1;
    int failed = of ? perform_and_exec(of, options, &err)
                    : un_fail_errno(&err, UN_STEP_LAUNCH, options->launch);
    status = failed ? report_launch_failure(of, &err) : 0;
    if (of) {
        un_launch_close(of->launch);
        un_launch_params_free(&of->params);
        un_launch_file_close(&of->file);
        free(of);
    }
    return status;
}
