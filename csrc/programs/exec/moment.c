#include "base/base.h"
#include "launch/launch.h"
#include "programs/exec/exec.h"

static int take_args(const struct un_launch *launch, const char *const *command,
                     struct moment *moment, struct un_error *err)
{
    size_t words = 0, count = 0;
    while (command[words])
        words++;
    moment->args = calloc(launch->record_count + words + 1, sizeof *moment->args);
    if (!moment->args)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    if (!words)
        UN_EACH_RECORD (record, launch, UN_VERB_ARG)
            moment->args[count++] = record->arguments;
    for (size_t i = 0; i < words; i++)
        moment->args[count++] = command[i];
    moment->is.args = moment->args;
    if (count && !*moment->args[0])
        return un_fail(err, UN_STEP_ARGUMENT, 0, "usage", "the command is an empty string");
    if (count)
        return 0;
    return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                   "no command was given, and the launch has none: usernsctl-exec --launch FILE "
                   "-- COMMAND");
}

/* Decides whether the command gets a terminal. */
static int take_terminal(const struct un_launch *launch, struct moment *moment,
                         struct un_error *err)
{
    bool is_needed = launch->of_verb[UN_VERB_TERMINAL_NEED];
    if (is_needed || launch->of_verb[UN_VERB_TERMINAL_MOMENT])
        moment->is.terminal = un_stdio_is_terminal();
    if (moment->is.terminal || !is_needed)
        return 0;
    return un_fail(err, UN_STEP_STDIO, 0, "terminal-missing",
                   "the launch needs a terminal, but standard input, output and error are not one");
}

/* Sets the supplementary groups of the launch, which belong to the user of the launch. */
static int take_groups(const struct un_launch *launch, struct moment *moment, struct un_error *err)
{
    moment->groups = calloc((size_t)launch->of_verb[UN_VERB_GROUP] + 1, sizeof *moment->groups);
    if (!moment->groups)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    UN_EACH_RECORD (record, launch, UN_VERB_GROUP)
        moment->groups[moment->is.group_count++] = (uint32_t)un_argument_number(record->arguments);
    moment->is.groups = moment->groups;
    return 0;
}

/* Sets the user of the launch. */
static int take_user_of_launch(const struct un_launch *launch, struct moment *moment,
                               struct un_error *err)
{
    const struct un_record *user = un_launch_first(launch, UN_VERB_USER);
    for (int kind = UN_UID; user && kind <= UN_GID; kind++)
        moment->is.id[kind] = (uint32_t)un_argument_number(un_record_argument(user, (size_t)kind));
    return take_groups(launch, moment, err);
}

/* Sets the ids and the groups of moment->user, whose names are found in the sandbox. */
static int find_user(struct un_launch *launch, struct moment *moment, struct un_error *err)
{
    const struct un_account *found = moment->account;
    if (un_launch_find_user(launch, &moment->user, moment->account, err))
        return -1;
    memcpy(moment->is.id, found->id, sizeof found->id);
    moment->is.groups = found->groups;
    moment->is.group_count = found->group_count;
    return 0;
}

/* Sets the ids of moment->user, which are both numbers. */
static int take_numbers(struct moment *moment, struct un_error *err)
{
    const struct un_account_name *user = &moment->user;
    const struct un_account_file none = {0};
    un_auto_free struct un_account *found = malloc(sizeof *found);
    if (!found)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    if (un_account_find(user->user, user->has_group ? user->group : NULL, &none, &none, found, err))
        return -1;
    memcpy(moment->is.id, found->id, sizeof found->id);
    return 0;
}

int un_moment_set_user(const struct un_launch *launch, const char *run_as, struct moment *moment,
                       struct un_error *err)
{
    if (!run_as)
        return take_user_of_launch(launch, moment, err);
    if (!un_account_parse(run_as, &moment->user))
        return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                       "%s: \"%.200s\" must be UID[:GID] or NAME[:GROUP], ids from 0 to 4294967294",
                       "--run-as", run_as);
    if (!launch->of_verb[UN_VERB_JSON_USER])
        return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                       "--run-as: the bundle of this launch decides the user");
    if (un_account_is_id(moment->user.user) &&
        (!moment->user.has_group || un_account_is_id(moment->user.group)))
        return take_numbers(moment, err);
    moment->account = calloc(1, sizeof *moment->account);
    return moment->account ? 0 : un_fail_errno(err, UN_STEP_LAUNCH, "");
}

int un_moment_take(const struct un_launch *launch, const char *const *command, char **environment,
                   struct moment *moment, struct un_error *err)
{
    memset(moment, 0, sizeof *moment);
    if (take_args(launch, command, moment, err) ||
        un_environment_make(launch, environment, &moment->env, err) ||
        take_terminal(launch, moment, err))
        return -1;
    moment->is.env = moment->env;
    if (uname(&moment->host))
        return un_fail_errno(err, UN_STEP_FACTS, "uname");
    moment->is.hostname = moment->host.nodename;
    /* If the current directory was deleted, the command starts in /. */
    if (!getcwd(moment->cwd, sizeof moment->cwd) || *moment->cwd != '/')
        strcpy(moment->cwd, "/");
    if (launch->of_verb[UN_VERB_HOME_MOMENT])
        un_homes_find(&moment->homes, un_environment_value(environment, "HOME"));
    moment->is.homes = moment->homes.list;
    return 0;
}

/* Returns whether the root filesystem is the host's, so that paths outside are valid inside. */
static bool shows_machine(const struct un_launch *launch)
{
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    return !tree || !strcmp(un_record_source(launch, tree, 0)->path, "/");
}

static int settle_cwd(struct un_launch *launch, struct moment *moment, struct un_error *err)
{
    const struct un_record *named = un_launch_first(launch, UN_VERB_CWD);
    const char *wanted = named ? named->arguments : NULL;
    if (launch->of_verb[UN_VERB_CWD_MOMENT])
        wanted = moment->cwd;
    if (wanted) {
        moment->is.cwd = wanted;
        if (un_view_is_of_gvisor(wanted) || un_view_has_directory(&launch->view, wanted))
            return 0;
        return un_fail(err, UN_STEP_CWD, 0, "cwd-not-found",
                       "%.300s, the working directory of the launch, does not exist in the sandbox",
                       wanted);
    }
    /* The analyzer takes the array moment->cwd for a pointer that may be NULL. */
    bool has = shows_machine(launch) && un_view_has_directory(&launch->view, moment->cwd);
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    moment->is.cwd = has ? moment->cwd : "/";
    return 0;
}

int un_moment_settle(struct un_launch *launch, const struct un_idmap *maps, struct moment *moment,
                     struct un_error *err)
{
    if (moment->account &&
        (find_user(launch, moment, err) || un_config_check_user(launch, &moment->is, maps, err)))
        return -1;
    if (settle_cwd(launch, moment, err))
        return -1;
    return un_launch_check_command(launch, &moment->is, err);
}

void un_moment_drop(struct moment *moment)
{
    free(moment->args);
    free(moment->env);
    free(moment->groups);
    free(moment->account);
}
