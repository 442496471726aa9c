/* Tests of struct un_error: filling in its members, formatting an error as one line, and
 * determining the exit status for an error, as shells do. */
#include "base/base.h"
#include "check.h"

#include <errno.h>

static struct un_error err;

static void every_step_has_a_name_of_its_own(void)
{
    for (int step = 0; step < UN_STEP_COUNT; step++) {
        CHECK(un_step_name(step) && *un_step_name(step));
        for (int other = 0; other < step; other++)
            CHECK(strcmp(un_step_name(step), un_step_name(other)));
    }
    CHECK_TEXT(un_step_name(-1), "unknown");
    CHECK_TEXT(un_step_name(UN_STEP_COUNT), "unknown");
}

static void a_failure_is_recorded_whole(void)
{
    memset(&err, 0xff, sizeof err);
    CHECK_INT(un_fail(&err, UN_STEP_PLAN, EINVAL, "map-invalid", "%s %d", "extent", 7), -1);
    CHECK_INT(err.step, UN_STEP_PLAN);
    CHECK_INT(err.errnum, EINVAL);
    CHECK_TEXT(err.cause, "map-invalid");
    CHECK_TEXT(err.detail, "extent 7");

    errno = EACCES;
    CHECK_INT(un_fail_errno(&err, UN_STEP_UID_MAP, "uid_map"), -1);
    CHECK_INT(err.step, UN_STEP_UID_MAP);
    CHECK_INT(err.errnum, EACCES);
    CHECK(err.cause == NULL);
    CHECK_TEXT(err.detail, "uid_map");
}

static void a_long_detail_is_cut_and_ended(void)
{
    char longer[2 * UN_DETAIL_MAX];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';

    un_fail_errno(&err, UN_STEP_EXEC, longer);
    CHECK_INT((long long)strlen(err.detail), UN_DETAIL_MAX - 1);
    un_fail(&err, UN_STEP_EXEC, 0, NULL, "%s", longer);
    CHECK_INT((long long)strlen(err.detail), UN_DETAIL_MAX - 1);
}

static void a_reason_is_one_line(void)
{
    char text[64];
    un_fail(&err, UN_STEP_PLAN, 0, NULL, "nothing to map");
    CHECK_TEXT(un_error_reason(&err, text, sizeof text), "nothing to map");
    un_fail(&err, UN_STEP_CWD, ENOENT, NULL, "/gone");
    CHECK_TEXT(un_error_reason(&err, text, sizeof text), "/gone: No such file or directory");
    un_fail(&err, UN_STEP_UNSHARE, EPERM, NULL, "%s", "");
    CHECK_TEXT(un_error_reason(&err, text, sizeof text), "Operation not permitted");
    char tiny[8];
    CHECK_TEXT(un_error_reason(&err, tiny, sizeof tiny), "Operati");
    un_fail(&err, UN_STEP_HELPER, 0, NULL, "%s", "two\nlines\033[1m");
    CHECK_TEXT(un_error_reason(&err, text, sizeof text), "two lines?[1m");
}

/* Checks that un_errno_text() returns glibc's texts with any libc, because Python and other
 * programs print these texts. */
static void errno_texts_do_not_depend_on_the_libc(void)
{
    CHECK_TEXT(un_errno_text(EMFILE), "Too many open files");
    CHECK_TEXT(un_errno_text(EDQUOT), "Disk quota exceeded");
    CHECK_TEXT(un_errno_text(ENOENT), "No such file or directory");
}

/* Checks that errors are printed with escapes in place of characters that a terminal interprets
 * (CSI as one character, a bidirectional override, a line separator, an invisible tag) and in place
 * of invalid UTF-8 (a lone CSI byte, a truncated sequence, an overlong NUL, a surrogate). */
static void untrusted_text_is_escaped(void)
{
    char text[64];
    static const struct {
        const char *detail, *shown;
    } cases[] = {
        {"a\xc2\x9b"
         "31mb",
         "a?31mb"},
        {"\xe2\x80\xae"
         "txt.exe",
         "?txt.exe"},
        {"a\xe2\x80\xa8"
         "b",
         "a?b"},
        {"a\xf3\xa0\x81\x81"
         "b",
         "a?b"},
        {"a\x9b"
         "31m",
         "a?31m"},
        {"a\xe2\x80", "a??"},
        {"a\xc0\x80"
         "b",
         "a??b"},
        {"\xed\xa0\x80", "???"},
        {"\x7f\b\r\t\v", "??   "},
        {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
         "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        un_fail(&err, UN_STEP_HELPER, 0, NULL, "%s", cases[i].detail);
        CHECK_TEXT(un_error_reason(&err, text, sizeof text), cases[i].shown);
    }
}

static void only_the_command_itself_gives_126_and_127(void)
{
    for (int step = 0; step < UN_STEP_COUNT; step++) {
        struct un_error err = {.step = step, .errnum = ENOENT};
        int want = step == UN_STEP_LOOKUP ? 127 : step == UN_STEP_EXEC ? 126 : 125;
        CHECK_INT(un_exit_status(&err), want);
    }
}

int main(void)
{
    every_step_has_a_name_of_its_own();
    a_failure_is_recorded_whole();
    a_long_detail_is_cut_and_ended();
    a_reason_is_one_line();
    errno_texts_do_not_depend_on_the_libc();
    untrusted_text_is_escaped();
    only_the_command_itself_gives_126_and_127();
}
