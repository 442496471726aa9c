/* Writing config.json, from the JSON fragments in the launch and from struct un_launch_params. */
#include "base/base.h"
#include "launch/launch.h"
#include "map/map.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>

/* Parameters of the functions that write config.json. */
struct writing {
    struct un_launch *launch;
    const struct un_launch_params *params;
    const struct un_idmap *maps;
    struct un_text *text;
    struct un_error *err;
};

uint64_t un_map_ids(const struct un_map *map)
{
    uint64_t ids = 0;
    for (uint32_t i = 0; i < map->len; i++)
        ids += map->extent[i].count;
    return ids;
}

/* Fills in the error for a string that is not valid UTF-8, and returns -1. The error names the
 * field of config.json but not the string, which may be a secret, such as an environment
 * variable. */
static int fail_text(struct writing *writing, const char *where, size_t number)
{
    char place[64];
    snprintf(place, sizeof place, number ? "%s[%zu]" : "%s", where, number - 1);
    un_launch_set_remedy(writing->launch, NULL, NULL);
    return un_fail(writing->err, UN_STEP_CONFIG, 0, "launch-text",
                   "%s has a byte that is not UTF-8, as all of config.json must be", place);
}

static int add_string(struct writing *writing, const char *value, const char *where)
{
    if (un_text_add_string(writing->text, value))
        return 0;
    return fail_text(writing, where, 0);
}

/* Adds the strings of a list until one is not valid UTF-8. Returns the index of that string, or of
 * the NULL at the end of the list. */
static size_t add_strings(struct writing *writing, const char *const *values)
{
    size_t i = 0;
    for (; values[i]; i++) {
        if (i)
            un_text_add(writing->text, ", ");
        if (!un_text_add_string(writing->text, values[i]))
            break;
    }
    return i;
}

static int add_environment(struct writing *writing)
{
    const char *const *env = writing->params->env;
    if (!env)
        return 0;
    size_t i = add_strings(writing, env);
    return env[i] ? fail_text(writing, "$.process.env", i + 1) : 0;
}

/* Returns whether the user namespace maps the uid and the gid of the command. */
static bool is_user_mapped(const struct un_launch_params *params, const struct un_idmap *maps)
{
    return !maps || (un_map_find(&maps->of[UN_UID], UN_INSIDE, params->id[UN_UID]) &&
                     un_map_find(&maps->of[UN_GID], UN_INSIDE, params->id[UN_GID]));
}

static bool has_one_id(const struct un_idmap *maps)
{
    return un_map_ids(&maps->of[UN_UID]) == 1 && un_map_ids(&maps->of[UN_GID]) == 1;
}

static bool has_verifier(const struct un_launch *launch)
{
    UN_EACH_RECORD (record, launch, UN_VERB_FILE)
        if (!strcmp(un_record_argument(record, 1), UN_VERIFIER_INSIDE))
            return true;
    return false;
}

int un_config_check_user(struct un_launch *launch, const struct un_launch_params *params,
                         const struct un_idmap *maps, struct un_error *err)
{
    un_launch_set_remedy(launch, NULL, NULL);
    if (is_user_mapped(params, maps) || (has_one_id(maps) && has_verifier(launch)))
        return 0;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (!un_map_find(&maps->of[kind], UN_INSIDE, params->id[kind]))
            return un_fail(err, UN_STEP_PLAN, 0, "inside-id-unmapped",
                           "%s %" PRIu32 " of the command is not mapped", un_kinds[kind].name,
                           params->id[kind]);
    return 0;
}

static void add_groups(struct writing *writing)
{
    const struct un_launch_params *params = writing->params;
    for (size_t i = 0; i < params->group_count; i++) {
        un_text_add(writing->text, i ? ", " : ", \"additionalGids\": [");
        un_text_add_number(writing->text, params->groups[i]);
    }
    if (params->group_count)
        un_text_add(writing->text, "]");
}

static int add_user(struct writing *writing)
{
    bool is_mapped = is_user_mapped(writing->params, writing->maps);
    un_text_add(writing->text, "{\"uid\": ");
    un_text_add_number(writing->text, is_mapped ? writing->params->id[UN_UID] : 0);
    un_text_add(writing->text, ", \"gid\": ");
    un_text_add_number(writing->text, is_mapped ? writing->params->id[UN_GID] : 0);
    /* Omit the supplementary groups in a namespace that maps only one id, because such a namespace
     * does not map their gids. */
    if (is_mapped && !(writing->maps && has_one_id(writing->maps)))
        add_groups(writing);
    un_text_add(writing->text, "}");
    return 0;
}

/* Adds the arguments that make usernsctl-verify map the command's ids in a nested user namespace of
 * gVisor. Does nothing if the sandbox's user namespace maps the command's ids itself. Otherwise the
 * sandbox's user namespace maps only id 0, which runsc needs (un_config_check_user()). */
static void add_nested_ids(struct writing *writing)
{
    if (is_user_mapped(writing->params, writing->maps))
        return;
    un_text_add(writing->text, "\"" UN_VERIFY_AS "\"");
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        un_text_add(writing->text, ", \"");
        un_text_add_number(writing->text, writing->params->id[kind]);
        un_text_add(writing->text, "\"");
    }
    un_text_add(writing->text, ", ");
}

/* If this process ignores terminating signals, as a process started by nohup(1) does, adds the
 * argument that makes usernsctl-verify, and so the command, ignore these signals. usernsctl-watch
 * still forwards the signals, because the command may install handlers for them. */
static void add_ignored_signals(struct writing *writing)
{
    uint64_t ignored = 0;
    for (int sig = 1; sig < NSIG; sig++)
        if (un_is_terminating(sig) && un_is_ignored(sig))
            ignored |= UINT64_C(1) << (sig - 1);
    if (!ignored || !has_verifier(writing->launch))
        return;
    un_text_add(writing->text, "\"" UN_VERIFY_IGNORE);
    un_text_add_number(writing->text, ignored);
    un_text_add(writing->text, "\", ");
}

/* Adds the caller's RLIMIT_NOFILE, but at most UN_SANDBOX_FILES_MAX, to config.json. Otherwise the
 * command would inherit RLIMIT_NOFILE from runsc, which raises its own limit. */
static int add_open_files(struct writing *writing)
{
    static const char *const names[] = {"{\"type\": \"RLIMIT_NOFILE\", \"soft\": ", ", \"hard\": "};
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return un_fail_errno(writing->err, UN_STEP_CONFIG, "getrlimit");
    const rlim_t limits[] = {limit.rlim_cur, limit.rlim_max};
    for (size_t i = 0; i < 2; i++) {
        un_text_add(writing->text, names[i]);
        un_text_add_number(writing->text,
                           limits[i] < UN_SANDBOX_FILES_MAX ? limits[i] : UN_SANDBOX_FILES_MAX);
    }
    un_text_add(writing->text, "}");
    return 0;
}

/* Adds the arguments of the command. The error for an argument that is not valid UTF-8 quotes the
 * argument, which the caller has typed. */
static int add_words(struct writing *writing, const char *const *args)
{
    size_t i = add_strings(writing, args);
    if (!args[i])
        return 0;
    char quoted[UN_QUOTED_ROOM];
    un_quote(args[i], quoted);
    un_launch_set_remedy(writing->launch, NULL, NULL);
    return un_fail(writing->err, UN_STEP_CONFIG, 0, "launch-text",
                   "argument %zu of the command is not UTF-8, as config.json must be: %s", i,
                   quoted);
}

static int add_args(struct writing *writing)
{
    const char *const *args = writing->params->args;
    if (!args || !*args) {
        un_launch_set_remedy(writing->launch, NULL, NULL);
        return un_fail(writing->err, UN_STEP_ARGUMENT, 0, "usage", "no command was given");
    }
    if (writing->params->log_json && has_verifier(writing->launch))
        un_text_add(writing->text, "\"" UN_LOG_JSON "\", ");
    add_ignored_signals(writing);
    add_nested_ids(writing);
    return add_words(writing, args);
}

/* Writes the uid or gid mappings of runsc's nested user namespace, which maps every id of the
 * current one to itself. Adjacent extents are not merged, because the kernel rejects an extent that
 * spans two extents of the parent's map (user_namespaces(7)). */
static int add_map(struct writing *writing, int kind)
{
    struct un_text *text = writing->text;
    const struct un_map *map = &writing->maps->of[kind];
    for (uint32_t i = 0; i < map->len; i++) {
        un_text_add(text, i ? ", {\"containerID\": " : "{\"containerID\": ");
        un_text_add_number(text, map->extent[i].inside);
        un_text_add(text, ", \"hostID\": ");
        un_text_add_number(text, map->extent[i].inside);
        un_text_add(text, ", \"size\": ");
        un_text_add_number(text, map->extent[i].count);
        un_text_add(text, "}");
    }
    return 0;
}

static int add_if_several(struct writing *writing, const char *piece)
{
    const struct un_idmap *maps = writing->maps;
    if (un_map_ids(&maps->of[UN_UID]) > 1 || un_map_ids(&maps->of[UN_GID]) > 1)
        un_text_add(writing->text, piece);
    return 0;
}

static int add_root(struct writing *writing)
{
    char path[UN_PATH_MAX + sizeof "/root"];
    snprintf(path, sizeof path, "%s/root", writing->launch->marks.scratch);
    return add_string(writing, path, "$.root.path");
}

static const struct un_bind *bind_of(const struct writing *writing, const struct un_record *record)
{
    return &writing->launch->bind[un_argument_number(record->arguments)];
}

static int add_record(struct writing *writing, const struct un_record *record)
{
    const struct un_launch_params *params = writing->params;
    switch (record->verb) {
    case UN_VERB_JSON:
        un_text_add(writing->text, record->arguments);
        return 0;
    case UN_VERB_JSON_ARGS:
        return add_args(writing);
    case UN_VERB_JSON_ENV:
        return add_environment(writing);
    case UN_VERB_JSON_CWD:
        return add_string(writing, params->cwd ? params->cwd : "/", "$.process.cwd");
    case UN_VERB_JSON_HOSTNAME:
        return add_string(writing, params->hostname ? params->hostname : "", "$.hostname");
    case UN_VERB_JSON_OPEN_FILES:
        return add_open_files(writing);
    case UN_VERB_JSON_TERMINAL:
        un_text_add(writing->text, params->terminal ? "true" : "false");
        return 0;
    case UN_VERB_JSON_USER:
        return add_user(writing);
    case UN_VERB_JSON_ROOT:
        return add_root(writing);
    case UN_VERB_JSON_BIND_SOURCE:
        return add_string(writing, bind_of(writing, record)->source, "$.mounts");
    case UN_VERB_JSON_BIND_DESTINATION:
        return add_string(writing, bind_of(writing, record)->destination, "$.mounts");
    case UN_VERB_JSON_UID_MAP:
        return add_map(writing, UN_UID);
    case UN_VERB_JSON_GID_MAP:
        return add_map(writing, UN_GID);
    case UN_VERB_JSON_SEVERAL:
        return add_if_several(writing, record->arguments);
    default:
        return 0;
    }
}

int un_config_text(struct un_launch *launch, const struct un_launch_params *params,
                   const struct un_idmap *maps, struct un_text *text, struct un_error *err)
{
    static const struct un_launch_params nothing;
    struct writing writing = {launch, params ? params : &nothing, maps, text, err};
    for (size_t i = 0; i < launch->record_count; i++)
        if (un_verb_rules[launch->record[i].verb].part == UN_PART_CONFIG &&
            add_record(&writing, &launch->record[i]))
            return -1;
    if (!text->failed)
        return 0;
    errno = ENOMEM;
    return un_launch_fail_file(launch, "config.json", err);
}

static int write_text(struct un_launch *launch, const struct un_text *text, struct un_error *err)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    un_auto_close int file = openat(launch->root.scratch, "bundle/config.json", flags, 0600);
    if (file < 0 || un_write_all(file, text->bytes, text->length))
        return un_launch_fail_file(launch, "config.json", err);
    return 0;
}

int un_config_write(struct un_launch *launch, const struct un_launch_params *params,
                    const struct un_idmap *maps, struct un_error *err)
{
    struct un_text text = {0};
    int failed = un_config_text(launch, params, maps, &text, err);
    if (!failed && text.length)
        failed = write_text(launch, &text, err);
    un_text_free(&text);
    return failed;
}
