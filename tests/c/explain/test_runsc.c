/* Tests of explaining a failure of runsc from runsc's message. */
#include "base/base.h"
#include "check.h"
#include "explain/explain.h"

static struct un_runsc_failure explained(const char *message, const char *limit, const char *config)
{
    static struct un_runsc_failure failure;
    struct un_error err;
    CHECK_OK(un_runsc_explain(message, limit, config, config ? strlen(config) : 0, "/nonexistent",
                              &failure, &err),
             &err);
    return failure;
}

static void has_cause(const char *message, const char *config, const char *cause)
{
    struct un_runsc_failure failure = explained(message, "", config);
    CHECK(failure.has_cause == (cause != NULL));
    if (cause)
        CHECK_TEXT(failure.cause.id, cause);
    CHECK(*failure.remedy);
}

static void quotations_become(const char *message, const char *config, const char *left)
{
    char text[256];
    strcpy(text, message);
    CHECK_INT(un_remove_quotations(text, config, strlen(config)), 0);
    CHECK_TEXT(text, left);
}

static void one_cause_is_named(void)
{
    struct un_runsc_failure failure =
        explained("x: unable to run a rootless container without userns", "", "{}");
    CHECK(failure.has_cause);
    CHECK_TEXT(failure.cause.id, "bundle-no-mappings");
    CHECK_TEXT(failure.what,
               "runsc says: \"x: unable to run a rootless container without userns\"");
    CHECK_HAS(failure.cause.why, "Without a map in config.json");
    CHECK_HAS(failure.remedy, "usernsctl run --bundle DIR\n#");
    failure = explained("error setting up chroot: operation not permitted", "", "{}");
    struct un_cause known;
    CHECK(un_cause_find("mount-denied", &known));
    CHECK_TEXT(failure.cause.why, known.why);
}

static void several_causes_refer_to_doctor(void)
{
    struct un_runsc_failure failure = explained("newuidmap failed: exit status 1", "", "{}");
    CHECK(!failure.has_cause);
    CHECK_HAS(failure.remedy,
              "usernsctl doctor    # finds which cause applies: bundle-no-mappings, range-not-");
    failure = explained("newuidmap failed: exit status 1", "process-limit", "{}");
    CHECK_TEXT(failure.cause.id, "process-limit");
    failure = explained("something new", "", "{}");
    CHECK(!failure.has_cause);
    CHECK_TEXT(failure.remedy, "usernsctl doctor");
}

static void strings_of_the_config_become_dots(void)
{
    quotations_become("a: no such thing: b", "{\"x\": \"no such thing\"}", "a: ...: b");
    quotations_become("no such no such", "[\" such no \", 5]", "no ... such");
    quotations_become("a \\u001b]x y z\\n", "[\"\\u001b]x y\\nz\"]", "a \\u001b... z\\n");
    quotations_become("path /a/b-c.d=e, word", "[\"/a/b-c.d=e\", \"word\", \": \", \",\"]",
                      "path /a/b-c.d=e, word");
    /* Strings in config.json that occur in a message are replaced by dots; numbers are not.
     * Malformed JSON is tolerated. */
    quotations_become("a: 5, 6", "{\"x\": [5, 6]}", "a: 5, 6");
    quotations_become("a b c", "{\"x\": \"a b", "... c");
    quotations_become("a b c", "\"\\", "a b c");
    quotations_become("a b c", "\"\\u12", "a b c");
    quotations_become("", "[\"a b\"]", "");
}

static void untrusted_text_selects_no_cause(void)
{
    const char *const message = "\"/no dir\\a: newuidmap failed: exit status 1\": x";
    const char *const attach = "mount \"unable to attach: operation not permitted\": failed";
    has_cause(attach, "{}", "ptrace-denied");
    has_cause(attach, "[\"unable to attach: operation not permitted\"]", NULL);
    has_cause(attach, NULL, NULL);
    CHECK_TEXT(
        explained(message, "", "[\"/no dir\\u0007: newuidmap failed: exit status 1\"]").remedy,
        "usernsctl doctor");
}

/* Returns `length` bytes of `text`, repeated as often as necessary. The caller must free them. */
static char *repeated(const char *text, size_t length)
{
    char *copy = malloc(length + 1);
    CHECK(copy);
    for (size_t i = 0; i < length; i++)
        copy[i] = text[i % strlen(text)];
    copy[length] = '\0';
    return copy;
}

/* Checks that the time to explain a message does not grow with the product of the lengths of the
 * message and of config.json. If the time grew so fast, each of the checks would take minutes. */
static void long_strings_take_linear_time(void)
{
    static const char known[] = "unable to run a rootless container without userns: ";
    char *message = repeated("a b ", 1 << 18), *config = repeated("\"a b\",", 1 << 24);
    memcpy(message, known, strlen(known));
    has_cause(message, "{}", "bundle-no-mappings");
    has_cause(message, config, NULL);
    /* A config.json with one long string, in which the beginning of the message occurs at every
     * other byte. */
    memset(config + 1, 'a', 1 << 17);
    for (size_t i = 2; i < 1 << 17; i += 2)
        config[i] = ' ';
    free(message);
    message = repeated("a ", 1 << 18);
    has_cause(message, config, NULL);
    free(message);
    /* The message repeats the beginning of a message of the catalogue. */
    message = repeated("unshare x mount: \"runsc: \" to rootfs mounting ", 1 << 18);
    has_cause(message, "{}", NULL);
    free(message);
    free(config);
}

static void an_exit_without_a_message_is_explained(void)
{
    struct un_runsc_failure failure;
    un_runsc_explain_silence(UN_RUNSC_FAILED, "", "/proc", &failure);
    CHECK_TEXT(failure.cause.id, "runsc-refused-call");
    CHECK_HAS(failure.what, "runsc refused to start");
    un_runsc_explain_silence(UN_RUNSC_FAILED, "process-limit", "/proc", &failure);
    CHECK_TEXT(failure.cause.id, "process-limit");
    un_runsc_explain_silence(UN_RUNSC_CRASHED, "", "/proc", &failure);
    CHECK(!failure.has_cause);
    CHECK_HAS(failure.what, "runsc crashed or rejected an option");
    CHECK_HAS(failure.remedy, "ulimit -u");
}

static void quoted_is(const char *text, const char *want)
{
    char quoted[UN_QUOTED_ROOM];
    un_quote(text, quoted);
    CHECK_TEXT(quoted, want);
}

static void quotations_end_where_they_should(void)
{
    char text[UN_QUOTED_MAX * 4 + 8] = "";
    char quoted[UN_QUOTED_ROOM];
    quoted_is("", "\"\"");
    quoted_is("a \"b\" \\ '", "\"a \\\"b\\\" \\\\ '\"");
    quoted_is("\n\t\r\b\f\x1b\x7f", "\"\\n\\t\\r\\b\\f\\u001b\\x7f\"");
    quoted_is("\xc2\x9b\xc2\xad\xe2\x80\xae\xf3\xa0\x80\xa0\xc3\xa9",
              "\"\\x9b\\xad\\u202e\\U000e0020\xc3\xa9\"");
    quoted_is("\xff\xc3", "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    for (int i = 0; i <= UN_QUOTED_MAX; i++)
        strcat(text, "\xf3\xa0\x80\xa0");
    un_quote(text, quoted);
    CHECK_INT((long long)strlen(quoted), UN_QUOTED_ROOM - 1);
    CHECK_TEXT(quoted + strlen(quoted) - 4, "...\"");
}

int main(void)
{
    one_cause_is_named();
    several_causes_refer_to_doctor();
    strings_of_the_config_become_dots();
    untrusted_text_selects_no_cause();
    long_strings_take_linear_time();
    an_exit_without_a_message_is_explained();
    quotations_end_where_they_should();
}
