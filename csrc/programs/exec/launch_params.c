#include "base/base.h"
#include "launch/launch.h"
#include "programs/exec/exec.h"

static int take_args(const struct un_launch *launch, const char *const *command,
                     struct launch_params *params, struct un_error *err)
{
    size_t words = 0, count = 0;
    while (command[words])
        words++;
    params->args = calloc(launch->record_count + words + 1, sizeof *params->args);
    if (!params->args)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    if (!words)
        UN_EACH_RECORD (record, launch, UN_VERB_ARG)
            params->args[count++] = record->arguments;
    for (size_t i = 0; i < words; i++)
        params->args[count++] = command[i];
    params->base.args = params->args;
    if (count && !*params->args[0])
        return un_fail(err, UN_STEP_ARGUMENT, 0, "usage", "the command is an empty string");
    if (count)
        return 0;
    return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                   "no command was given, and the launch has none: usernsctl-exec --launch FILE "
                   "-- COMMAND");
}

/* Decides whether the command uses the caller's terminal. Fails if the launch requires a terminal,
 * but standard input, output and error do not refer to the same terminal. */
static int take_terminal(const struct un_launch *launch, struct launch_params *params,
                         struct un_error *err)
{
    bool is_needed = launch->of_verb[UN_VERB_TERMINAL_NEED];
    if (is_needed || launch->of_verb[UN_VERB_TERMINAL_MOMENT])
        params->base.terminal = un_stdio_is_terminal();
    if (params->base.terminal || !is_needed)
        return 0;
    return un_fail(err, UN_STEP_STDIO, 0, "terminal-missing",
                   "the launch needs a terminal as standard input, output and error");
}

/* Copies the command's supplementary groups from the launch's records to `params`. */
static int take_groups(const struct un_launch *launch, struct launch_params *params,
                       struct un_error *err)
{
    params->groups = calloc((size_t)launch->of_verb[UN_VERB_GROUP] + 1, sizeof *params->groups);
    if (!params->groups)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    UN_EACH_RECORD (record, launch, UN_VERB_GROUP)
        params->groups[params->base.group_count++] =
            (uint32_t)un_argument_number(record->arguments);
    params->base.groups = params->groups;
    return 0;
}

/* Copies the ids and supplementary groups of the command's user from the launch's records to
 * `params`. */
static int take_user_of_launch(const struct un_launch *launch, struct launch_params *params,
                               struct un_error *err)
{
    const struct un_record *user = un_launch_first(launch, UN_VERB_USER);
    for (int kind = UN_UID; user && kind <= UN_GID; kind++)
        params->base.id[kind] =
            (uint32_t)un_argument_number(un_record_argument(user, (size_t)kind));
    return take_groups(launch, params, err);
}

/* Looks up the names in params->user in the sandbox, and sets the ids and supplementary groups of
 * the command. */
static int find_user(struct un_launch *launch, struct launch_params *params, struct un_error *err)
{
    const struct un_account *found = params->account;
    if (un_launch_find_user(launch, &params->user, params->account, err))
        return -1;
    memcpy(params->base.id, found->id, sizeof found->id);
    params->base.groups = found->groups;
    params->base.group_count = found->group_count;
    return 0;
}

/* Sets the ids of the command from params->user, which consists of numbers only. */
static int take_numbers(struct launch_params *params, struct un_error *err)
{
    const struct un_account_name *user = &params->user;
    const struct un_account_file none = {0};
    un_auto_free struct un_account *found = malloc(sizeof *found);
    if (!found)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    if (un_account_find(user->user, user->has_group ? user->group : NULL, &none, &none, found, err))
        return -1;
    memcpy(params->base.id, found->id, sizeof found->id);
    return 0;
}

int un_launch_params_set_user(const struct un_launch *launch, const char *run_as,
                              struct launch_params *params, struct un_error *err)
{
    if (!run_as)
        return take_user_of_launch(launch, params, err);
    if (!un_account_parse(run_as, &params->user))
        return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                       "%s: \"%.200s\" is not UID[:GID] or NAME[:GROUP], ids from 0 to 4294967294",
                       "--run-as", run_as);
    if (!launch->of_verb[UN_VERB_JSON_USER])
        return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                       "--run-as: the bundle of this launch decides the user");
    if (un_account_is_id(params->user.user) &&
        (!params->user.has_group || un_account_is_id(params->user.group)))
        return take_numbers(params, err);
    params->account = calloc(1, sizeof *params->account);
    return params->account ? 0 : un_fail_errno(err, UN_STEP_LAUNCH, "");
}

int un_launch_params_collect(const struct un_launch *launch, const char *const *command,
                             char **environment, struct launch_params *params, struct un_error *err)
{
    memset(params, 0, sizeof *params);
    if (take_args(launch, command, params, err) ||
        un_environment_make(launch, environment, &params->env, err) ||
        take_terminal(launch, params, err))
        return -1;
    params->base.env = params->env;
    if (uname(&params->host))
        return un_fail_errno(err, UN_STEP_FACTS, "uname");
    params->base.hostname = params->host.nodename;
    /* Start the command in / if the current directory was removed. */
    if (!getcwd(params->cwd, sizeof params->cwd) || *params->cwd != '/')
        strcpy(params->cwd, "/");
    if (launch->of_verb[UN_VERB_HOME_MOMENT])
        un_homes_find(&params->homes, un_environment_value(environment, "HOME"));
    params->base.homes = params->homes.list;
    return 0;
}

/* Returns whether the sandbox sees the host's root directory, so that the host's paths are valid in
 * the sandbox. */
static bool shows_machine(const struct un_launch *launch)
{
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    return !tree || !strcmp(un_record_source(launch, tree, 0)->path, "/");
}

static int resolve_cwd(struct un_launch *launch, struct launch_params *params, struct un_error *err)
{
    const struct un_record *named = un_launch_first(launch, UN_VERB_CWD);
    const char *wanted = named ? named->arguments : NULL;
    if (launch->of_verb[UN_VERB_CWD_MOMENT])
        wanted = params->cwd;
    if (wanted) {
        params->base.cwd = wanted;
        if (un_view_is_of_gvisor(wanted) || un_view_has_directory(&launch->view, wanted))
            return 0;
        return un_fail(err, UN_STEP_CWD, 0, "cwd-not-found",
                       "%.300s, the working directory of the launch, does not exist in the sandbox",
                       wanted);
    }
    bool has = shows_machine(launch) && un_view_has_directory(&launch->view, params->cwd);
    /* clang's analyzer wrongly assumes that params->cwd may be NULL, although it is an array.
     * NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    params->base.cwd = has ? params->cwd : "/";
    return 0;
}

int un_launch_params_resolve(struct un_launch *launch, const struct un_idmap *maps,
                             struct launch_params *params, struct un_error *err)
{
    if (params->account &&
        (find_user(launch, params, err) || un_config_check_user(launch, &params->base, maps, err)))
        return -1;
    if (resolve_cwd(launch, params, err))
        return -1;
    return un_launch_check_command(launch, &params->base, err);
}

void un_launch_params_free(struct launch_params *params)
{
    free(params->args);
    free(params->env);
    free(params->groups);
    free(params->account);
}
