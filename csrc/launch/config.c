/* Writing config.json from the JSON fragments of the launch and from struct un_moment. */
#include "base/base.h"
#include "launch/launch.h"

/* Arguments for the functions that write config.json. */
struct writing {
    struct un_launch *launch;
    const struct un_moment *moment;
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

/* Fails because of invalid UTF-8. The value is not printed: an environment variable may be a
 * secret. */
static int fail_text(struct writing *writing, const char *where, size_t number)
{
    char place[64];
    snprintf(place, sizeof place, number ? "%s[%zu]" : "%s", where, number - 1);
    un_launch_set_remedy(writing->launch, NULL, NULL);
    return un_fail(writing->err, UN_STEP_CONFIG, 0, "launch-text",
                   "%s: a byte that isn't UTF-8; config.json can't hold it", place);
}

static int add_string(struct writing *writing, const char *value, const char *where)
{
    if (un_text_add_string(writing->text, value))
        return 0;
    return fail_text(writing, where, 0);
}

static int add_strings(struct writing *writing, const char *const *values, const char *where)
{
    for (size_t i = 0; values && values[i]; i++) {
        if (i)
            un_text_add(writing->text, ", ");
        if (!un_text_add_string(writing->text, values[i]))
            return fail_text(writing, where, i + 1);
    }
    return 0;
}

static int add_args(struct writing *writing)
{
    const char *const *args = writing->moment->args;
    if (!args || !*args) {
        un_launch_set_remedy(writing->launch, NULL, NULL);
        return un_fail(writing->err, UN_STEP_ARGUMENT, 0, "usage", "no command was given");
    }
    return add_strings(writing, args, "$.process.args");
}

/* Writes the mappings of a nested user namespace that keeps all ids. Adjacent extents are not
 * merged: the kernel rejects an extent that spans two extents of the parent's map
 * (user_namespaces(7)). */
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
    const struct un_moment *moment = writing->moment;
    switch (record->verb) {
    case UN_VERB_JSON:
        un_text_add(writing->text, record->arguments);
        return 0;
    case UN_VERB_JSON_ARGS:
        return add_args(writing);
    case UN_VERB_JSON_ENV:
        return add_strings(writing, moment->env, "$.process.env");
    case UN_VERB_JSON_CWD:
        return add_string(writing, moment->cwd ? moment->cwd : "/", "$.process.cwd");
    case UN_VERB_JSON_HOSTNAME:
        return add_string(writing, moment->hostname ? moment->hostname : "", "$.hostname");
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

int un_config_text(struct un_launch *launch, const struct un_moment *moment,
                   const struct un_idmap *maps, struct un_text *text, struct un_error *err)
{
    static const struct un_moment nothing;
    struct writing writing = {launch, moment ? moment : &nothing, maps, text, err};
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

int un_config_write(struct un_launch *launch, const struct un_moment *moment,
                    const struct un_idmap *maps, struct un_error *err)
{
    struct un_text text = {0};
    int failed = un_config_text(launch, moment, maps, &text, err);
    if (!failed && text.length)
        failed = write_text(launch, &text, err);
    un_text_free(&text);
    return failed;
}
