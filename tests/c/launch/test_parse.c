/* Tests of parsing launch files: what is valid, and which errors invalid files cause. */
#include "launch/launch.h"
#include "launched.h"

static void check_refused(const struct draft *draft, const char *part)
{
    struct un_launch *launch;
    struct un_error err;
    CHECK_INT(un_launch_parse(draft->bytes, draft->size, &launch, &err), -1);
    CHECK(launch == NULL);
    CHECK_INT(err.step, UN_STEP_LAUNCH);
    CHECK_HAS(err.detail, part);
    CHECK(err.cause && (!strcmp(err.cause, "launch-malformed") ||
                        (!strcmp(err.cause, "launch-outdated") && strstr(part, "format"))));
}

static void lines_are_refused(const char *const *lines, const char *part)
{
    struct draft draft;
    write_draft(&draft, lines);
    add_word(&draft, "end");
    check_refused(&draft, part);
}

static const char *const everything[] = {
    "remedy usernsctl\\ freeze",
    "idmap --map-auto",
    "idmap -r",
    "oom-score -5",
    "user 0 0",
    "group 5",
    "source own /bin/sh",
    "source follow /",
    "source exact /etc",
    "assume 0 12 100755 0123456789abcdef",
    "scratch /mnt",
    "scratch /srv",
    "machine usr",
    "snapshot etc",
    "guarded etc",
    "hide-private /etc",
    "directory /tmp 1777",
    "link /var/run /run",
    "tree 1",
    "home /home/me",
    "home-moment",
    "file 0 /.verify",
    "resolver",
    "bind 2 /data rw",
    "bind 1 /host ro",
    "mount /tmp empty",
    "mount /proc other",
    "read-only",
    "make bundle 0700",
    "tmpfs bundle/crash 1048576",
    "touch log/@t.@i.txt",
    "discard log/boot@@.txt",
    "debug-log 2",
    "limits 536870912 2 7",
    "program 0",
    "program-link 0 programs/runsc",
    "program-path 0",
    "json {\"args\":\\ [",
    "json-args",
    "json-env",
    "json-cwd",
    "json-hostname",
    "json-open-files",
    "json-terminal",
    "json-user",
    "json-root",
    "json-bind-source 0",
    "json-bind-destination 1",
    "json-uid-map",
    "json-gid-map",
    "json-several [\"CAP_CHOWN\"]",
    "env-all",
    "env-name TERM",
    "env-need TOKEN",
    "env-set A=",
    "cwd /data",
    "cwd-moment",
    "terminal-moment",
    "terminal-need",
    "arg \\ x",
    "no-new-privs",
    "private-network",
    "drop-bounding",
    "no-membarrier",
    "runsc-env PATH=/bin",
    "watch @s/programs/watch",
    "watch --root=@s/state@@@i",
    NULL,
};

static void every_verb_is_known(void)
{
    struct draft draft;
    struct un_launch *launch = launch_of(&draft, everything);
    for (int verb = 0; verb < UN_VERB_COUNT; verb++) {
        CHECK(launch->of_verb[verb] > 0);
        CHECK_INT(un_verb_find(un_verb_rules[verb].name), verb);
        CHECK(verb == 0 || strcmp(un_verb_rules[verb - 1].name, un_verb_rules[verb].name) < 0);
    }
    CHECK(launch->of_verb[UN_VERB_SOURCE] == 3);
    const struct un_record *bind = un_launch_first(launch, UN_VERB_BIND);
    CHECK_TEXT(un_record_argument(bind, 1), "/data");
    CHECK_TEXT(un_record_argument(bind, 2), "rw");
    CHECK(un_record_source(launch, bind, 0) == &launch->source[2]);
    un_launch_close(launch);
}

static void truncated_launches_are_rejected(void)
{
    struct draft draft;
    write_draft(&draft, everything);
    add_word(&draft, "end");
    while (draft.size--)
        check_refused(&draft, "");
}

static void malformed_launches_are_rejected(void)
{
    struct draft draft = {.size = 0};
    check_refused(&draft, "truncated");
    add_line(&draft, "#!/bin/sh");
    check_refused(&draft, "does not begin with");
    draft.size = 0;
    add_line(&draft, "usernsctl-launch 3 9.9");
    check_refused(&draft, "format \"3\", of usernsctl 9.9");
    write_draft(&draft, LINES("machine usr"));
    check_refused(&draft, "string 4, \"machine\": no \"scratch\" record before");
}

static void a_wrong_record_is_named(void)
{
    lines_are_refused(LINES("scratch /mnt", "frobnicate 1"),
                      "string 6, \"frobnicate\": unknown verb");
    lines_are_refused(LINES("scratch /mnt", "read-only", "read-only"), "only one is allowed");
    lines_are_refused(LINES("scratch /mnt", "read-only", "machine usr"), "after \"read-only\"");
    lines_are_refused(LINES("scratch /mnt", "source own /"), "out of order");
    lines_are_refused(LINES("end", "scratch"), "nothing may come after");
    lines_are_refused(LINES("scratch"), "string 5, \"end\", of \"scratch\" must be an absolute");
}

static void a_wrong_argument_is_named(void)
{
    static const struct {
        const char *line, *right;
    } wrong[] = {
        {"machine ../usr", "a file name without a slash"},
        {"machine ..", "a file name without a slash"},
        {"machine ", "a file name without a slash"},
        {"hide-private etc", "an absolute path"},
        {"directory /a 8", "permissions in octal"},
        {"directory /a 10000", "permissions in octal"},
        {"directory /a ", "permissions in octal"},
        {"bind 1 /a ro", "the number of a source"},
        {"bind -1 /a ro", "the number of a source"},
        {"bind 0x /a ro", "the number of a source"},
        {"bind 0 /a rx", "ro or rw"},
        {"mount /a full", "empty or other"},
        {"make ../x 0700", "a relative path"},
        {"make a//b 0700", "a relative path"},
        {"make a/./b 0700", "a relative path"},
        {"make /a 0700", "a relative path"},
        {"make a@s 0700", "a relative path"},
        {"tmpfs a 1k", "a number"},
        {"tmpfs a 99999999999999999999", "a number"},
        {"json-bind-source 0", "the number of a bind"},
        {"env-name A=B", "the name of a variable"},
        {"env-set =A", "NAME=VALUE"},
        {"env-set A", "NAME=VALUE"},
        {"watch a@", "@s, @i, @t or @@"},
        {"watch @x", "@s, @i, @t or @@"},
    };
    for (size_t i = 0; i < COUNT(wrong); i++)
        lines_are_refused(LINES("source own /", "scratch /mnt", wrong[i].line), wrong[i].right);
    lines_are_refused(LINES("source where /"), "own, follow or exact");
    lines_are_refused(LINES("idmap --root=/"), "an id-map option");
    lines_are_refused(LINES("idmap --mount"), "an id-map option");
    lines_are_refused(LINES("oom-score 1001"), "from -1000 to 1000");
    lines_are_refused(LINES("user -1 0"), "an id");
}

static void launches_that_are_too_large_are_rejected(void)
{
    struct un_launch *launch;
    struct un_error err;
    static const size_t sizes[] = {UN_LAUNCH_WORDS_MAX + 1, (size_t)UN_LAUNCH_MAX + 1};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        char *bytes = calloc(sizes[i], 1);
        CHECK(bytes != NULL);
        CHECK_INT(un_launch_parse(bytes, sizes[i], &launch, &err), -1);
        CHECK_TEXT(err.cause, "launch-malformed");
        CHECK_HAS(err.detail, "exceed the limit");
        free(bytes);
    }
}

static void marks_are_replaced(void)
{
    const struct un_marks marks = {.scratch = "/mnt/x", .id = "0123", .stamp = "now"};
    char text[64];
    CHECK(un_marks_expand(&marks, "--a=@s/b-@i.@t@@", NULL) == 22);
    CHECK(un_marks_expand(&marks, "--a=@s/b-@i.@t@@", text) == 22);
    CHECK_TEXT(text, "--a=/mnt/x/b-0123.now@");
    CHECK(un_marks_expand(&marks, "", text) == 0);
    CHECK_TEXT(text, "");
}

static void closing_null_does_nothing(void)
{
    un_launch_close(NULL);
}

int main(void)
{
    every_verb_is_known();
    truncated_launches_are_rejected();
    malformed_launches_are_rejected();
    a_wrong_record_is_named();
    a_wrong_argument_is_named();
    launches_that_are_too_large_are_rejected();
    marks_are_replaced();
    closing_null_does_nothing();
}
