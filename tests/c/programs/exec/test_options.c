/* Tests of parsing the command line of usernsctl-exec. */
#include "base/base.h"
#include "check.h"
#include "programs/exec/exec.h"

#include <sys/mount.h>

#define WORDS 5

/* Parses arguments into `options`, whose strings stay valid until the next call. */
static int parse(const char *const *given, struct un_options *options, struct un_error *err)
{
    static char copies[WORDS][64], *words[WORDS + 2] = {"usernsctl-exec"};
    int count = 0;
    for (; count < WORDS && given[count]; count++) {
        snprintf(copies[count], sizeof copies[count], "%s", given[count]);
        words[count + 1] = copies[count];
    }
    words[count + 1] = NULL;
    return un_options_parse(count + 1, words, options, err);
}

static void invalid_arguments_are_named(void)
{
    static const struct {
        const char *words[WORDS], *part;
    } cases[] = {
        {{NULL}, "no command was given"},
        {{"--fork"}, "no command was given"},
        {{"--map-user=x"}, "--map-user: \"x\" is not a number from 0 to 4294967294"},
        {{"--map-group=4294967295"}, "--map-group: \"4294967295\" is not a number"},
        {{"-S", "1x"}, "\"1x\" is not a number"},
        {{"--map-users=1:2"}, "1:2"},
        {{"--kill-child=999"}, "--kill-child: \"999\" is not a number"},
        {{"--kill-child=0"}, "\"0\" is not a signal; try KILL or TERM"},
        {{"--kill-child=NONE"}, "\"NONE\" is not a signal"},
        {{"--setgroups=maybe"}, "--setgroups: \"maybe\" is not allow or deny"},
        {{"--propagation=x"}, "\"x\" is not private, shared, slave or unchanged"},
        {{"--log=x"}, "--log: \"x\" is not text or json"},
        {{"--preserve-fd=-1"}, "--preserve-fd: \"-1\" is not a number"},
        {{"--hold=x"}, "\"x\" is not a number"},
        {{"--map-user"}, "option --map-user needs a value"},
        {{"-S"}, "option -S needs a value"},
        {{"--fork=x"}, "--fork=x: the option takes no value"},
        {{"-Z"}, "there is no option -Z"},
        {{"--nothing"}, "there is no option --nothing"},
        {{"--check", "true"}, "--check needs --launch FILE"},
        {{"--run-as=1", "true"}, "--run-as needs --launch FILE"},
        {{"--launch=f", "--fork"}, "--launch excludes all options except"},
        {{"-m", "--launch=f"}, "--launch excludes all options except"},
        {{"--launch=f", "--run-as"}, "option --run-as needs a value"},
        {{"--hold=3", "true"}, "a named namespace is created without a command: leave out true"},
        {{"--hold=3", "-n", "--", UN_NETWORK}, "--net private and --net (-n) exclude each other"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct un_options options;
        struct un_error err;
        CHECK_INT(parse(cases[i].words, &options, &err), -1);
        CHECK_HAS(err.detail, cases[i].part);
        CHECK_INT(err.step, UN_STEP_ARGUMENT);
    }
}

static struct un_options parse_well(const char *const *words)
{
    struct un_options options;
    struct un_error err;
    CHECK_OK(parse(words, &options, &err), &err);
    return options;
}

#define PARSE(...) parse_well((const char *const[WORDS + 1]){__VA_ARGS__})

static void options_have_their_values(void)
{
    struct un_options options = PARSE("--map-group=5", "--map-subids", "--keep-caps", "true");
    CHECK_INT(options.request.id[UN_GID].self, 5);
    CHECK_INT(options.request.id[UN_UID].fill, UN_FILL_IDENTITY);
    CHECK(options.setup.keep_caps);
    CHECK(PARSE("--propagation=slave", "true").propagation == MS_SLAVE);
    CHECK(!PARSE("--propagation=unchanged", "true").propagation);
    CHECK(PARSE("--log=json", "true").log_json);
    CHECK(!PARSE("--log=text", "true").log_json);
    CHECK_INT(PARSE("--kill-child=10", "true").kill_child, 10);
    CHECK_INT(PARSE("--kill-child=SIGTERM", "true").kill_child, 15);
    CHECK_INT(PARSE("-V").action, UN_VERSION);
    CHECK_INT(PARSE("--help", "--nothing").action, UN_HELP);
    options = PARSE("--run-as=1:2", "--launch=f", "--reraise-signal", "--check", "true");
    CHECK_TEXT(options.launch, "f");
    CHECK_TEXT(options.run_as, "1:2");
    CHECK(options.reraise_signal && options.check);
    CHECK_TEXT(*options.command, "true");
    CHECK(!PARSE("--launch=f", "--log=text").log_json);
    CHECK(PARSE("--launch=f", "--log=json", "--check", "--check", "--log=json").log_json);
    CHECK_TEXT(PARSE("--launch=f", "--run-as=a", "--run-as=b").run_as, "b");
    options = PARSE("--preserve-fd=9", "--preserve-fd=5", "--preserve-fd=9", "true");
    CHECK(options.keep_count == 2);
    CHECK_INT(options.keep[0], 5);
    CHECK_INT(options.keep[1], 9);
}

static void descriptors_have_a_maximum(void)
{
    static char words[UN_KEEP_MAX + 1][32];
    char *argv[UN_KEEP_MAX + 3] = {"usernsctl-exec"};
    struct un_options options;
    struct un_error err;
    for (int i = 0; i <= UN_KEEP_MAX; i++) {
        snprintf(words[i], sizeof words[i], "--preserve-fd=%d", i + 3);
        argv[i + 1] = words[i];
    }
    CHECK_INT(un_options_parse(UN_KEEP_MAX + 2, argv, &options, &err), -1);
    CHECK_HAS(err.detail, "too many descriptors at");
}

int main(void)
{
    invalid_arguments_are_named();
    options_have_their_values();
    descriptors_have_a_maximum();
    return 0;
}
