/*
 * Parsing a launch, which is a sequence of strings, each terminated by NUL.
 *
 * The header consists of three strings: "usernsctl-launch", the version of the format, and the
 * version of usernsctl that composed the launch. The records follow, in the order of enum un_part.
 * Each record consists of a verb and as many arguments as the verb takes (UN_EACH_VERB). The last
 * record is "end".
 *
 * The whole launch is checked before any record is performed.
 */
#include "base/base.h"
#include "launch/launch.h"

#define NAME "usernsctl-launch"
#define FORMAT "2"

/* The position of the parser in the launch, and counts that it needs to check the records. */
struct reader {
    const char *at;
    const char *end;
    size_t number; /* number of the last string read, starting at 1 */
    size_t sources;
    size_t binds;
    enum un_part part;
};

static int malformed(const struct reader *reader, const char *word, const char *fault,
                     struct un_error *err)
{
    return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed", "string %zu, \"%.100s\": %s",
                   reader->number, word, fault);
}

/* Returns the next string, or NULL at the end of the launch. */
static const char *next_word(struct reader *reader)
{
    const char *word = reader->at;
    if (word == reader->end)
        return NULL;
    reader->at += strlen(word) + 1;
    reader->number++;
    return word;
}

static int check_bounds(const char *bytes, size_t size, size_t *words, struct un_error *err)
{
    if (size > UN_LAUNCH_MAX)
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed",
                       "%zu bytes exceed the limit of %d", size, UN_LAUNCH_MAX);
    if (!size || bytes[size - 1])
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed", "truncated within a string");
    for (const char *at = bytes; at < bytes + size; at += strlen(at) + 1)
        ++*words;
    if (*words > UN_LAUNCH_WORDS_MAX)
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed",
                       "%zu strings exceed the limit of %d", *words, UN_LAUNCH_WORDS_MAX);
    return 0;
}

static int read_header(struct reader *reader, struct un_launch *launch, struct un_error *err)
{
    const char *name = next_word(reader);
    const char *format = next_word(reader);
    const char *version = next_word(reader);
    if (!version || strcmp(name, NAME))
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed",
                       "does not begin with \"" NAME "\"");
    if (strcmp(format, FORMAT))
        return un_fail(
            err, UN_STEP_LAUNCH, 0, "launch-outdated",
            "format \"%.20s\", of usernsctl %.40s; this usernsctl %s reads format " FORMAT, format,
            version, un_version());
    launch->version = version;
    return 0;
}

static int read_arguments(struct reader *reader, const struct un_verb_rule *rule,
                          struct un_error *err)
{
    for (size_t i = 0; i < UN_VERB_ARGUMENTS && rule->argument[i]; i++) {
        const char *word = next_word(reader);
        if (!word)
            return malformed(reader, rule->name, "truncated within this record", err);
        const char *right =
            un_argument_fault(rule->argument[i], word, reader->sources, reader->binds);
        if (right)
            return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed",
                           "string %zu, \"%.100s\", of \"%s\" must be %s", reader->number, word,
                           rule->name, right);
    }
    return 0;
}

/* Returns NULL if a record with the verb `verb` may follow the previous records. Otherwise returns
 * a message that says whether the record is out of order, must not be repeated, or lacks a
 * preceding record. */
static const char *order_fault(const struct reader *reader, const struct un_launch *launch,
                               enum un_verb verb)
{
    const struct un_verb_rule *rule = &un_verb_rules[verb];
    if (rule->part < reader->part)
        return "out of order";
    if (rule->once && launch->of_verb[verb])
        return "only one is allowed";
    if (rule->part == UN_PART_STEPS && launch->of_verb[UN_VERB_READ_ONLY])
        return "not allowed after \"read-only\"";
    if (rule->part >= UN_PART_STEPS && rule->part <= UN_PART_CONFIG &&
        !launch->of_verb[UN_VERB_SCRATCH])
        return "no \"scratch\" record before";
    return NULL;
}

static int read_record(struct reader *reader, struct un_launch *launch, struct un_error *err)
{
    const char *name = next_word(reader);
    if (!name)
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed", "truncated: no \"end\" record");
    enum un_verb verb = un_verb_find(name);
    if (verb == UN_VERB_COUNT)
        return malformed(reader, name, "unknown verb", err);
    const char *fault = order_fault(reader, launch, verb);
    if (fault)
        return malformed(reader, name, fault, err);
    launch->record[launch->record_count++] = (struct un_record){verb, reader->at};
    if (read_arguments(reader, &un_verb_rules[verb], err))
        return -1;
    launch->of_verb[verb]++;
    reader->sources = launch->of_verb[UN_VERB_SOURCE];
    reader->binds = launch->of_verb[UN_VERB_BIND];
    /* The cast is valid, because un_verb_rules contains only values of enum un_part. The analyzer
     * can't see that, because un_verb_rules is defined in another file.
     * NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange) */
    reader->part = un_verb_rules[verb].part;
    return 0;
}

static int read_all(struct reader *reader, struct un_launch *launch, struct un_error *err)
{
    if (read_header(reader, launch, err))
        return -1;
    while (reader->part != UN_PART_END)
        if (read_record(reader, launch, err))
            return -1;
    const char *more = next_word(reader);
    return more ? malformed(reader, more, "nothing may come after \"end\"", err) : 0;
}

/* Allocates the arrays launch->source and launch->bind. */
static int make_room(struct un_launch *launch, struct un_error *err)
{
    size_t sources = launch->of_verb[UN_VERB_SOURCE], binds = launch->of_verb[UN_VERB_BIND];
    launch->source = calloc(sources + 1, sizeof *launch->source);
    launch->bind = calloc(binds + 1, sizeof *launch->bind);
    for (size_t i = 0; launch->source && i < sources; i++)
        launch->source[i].fd = -1;
    if (!launch->source || !launch->bind)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    return 0;
}

int un_launch_parse(const void *bytes, size_t size, struct un_launch **launch, struct un_error *err)
{
    size_t words = 0;
    struct reader reader = {.at = bytes, .end = (const char *)bytes + size};
    *launch = NULL;
    if (check_bounds(bytes, size, &words, err))
        return -1;
    struct un_launch *parsed = calloc(1, sizeof *parsed);
    if (!parsed)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    parsed->root.scratch = parsed->root.spare = parsed->root.shown = parsed->view.top = -1;
    parsed->record = calloc(words + 1, sizeof *parsed->record);
    if (!parsed->record)
        un_fail_errno(err, UN_STEP_LAUNCH, "");
    if (!parsed->record || read_all(&reader, parsed, err) || make_room(parsed, err)) {
        un_launch_close(parsed);
        return -1;
    }
    *launch = parsed;
    return 0;
}
