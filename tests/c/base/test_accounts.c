/* Tests of looking up users and groups in /etc/passwd and /etc/group. */
#include "base/base.h"
#include "check.h"

#include <errno.h>

static struct un_account found;
static struct un_error err;

static int find(const char *user, const char *group, const char *passwd, const char *groups)
{
    const struct un_account_file files[] = {{passwd, passwd ? strlen(passwd) : 0},
                                            {groups, groups ? strlen(groups) : 0}};
    return un_account_find(user, group, &files[0], &files[1], &found, &err);
}

static void names_and_numbers_are_parsed(void)
{
    struct un_account_name name;
    CHECK(un_account_parse("app", &name) && !name.has_group);
    CHECK_TEXT(name.user, "app");
    CHECK(un_account_parse("4294967294:0", &name) && name.has_group);
    CHECK_TEXT(name.group, "0");
    CHECK(un_account_parse("caf\xc3\xa9:a.b-c", &name));
    CHECK(un_account_parse("\xd9\xa3", &name) && !un_account_is_id(name.user));
}

static void malformed_names_are_refused(void)
{
    static const char *const texts[] = {
        "",
        ":",
        ":a",
        "a:",
        "a:b:c",
        "-1",
        "+a",
        "a b",
        "4294967295",
        "00000000001",
        "a,b",
        "a/b",
        "a\nb",
        "a\x1b[2J",
        "\xff",
        "a\xe2\x80\xae",
        "1:4294967296",
        "a\tb",
        "9\x7f",
    };
    char longest[UN_ACCOUNT_NAME_MAX + 2];
    struct un_account_name name;
    for (size_t i = 0; i < COUNT(texts); i++)
        CHECK(!un_account_parse(texts[i], &name));
    memset(longest, 'x', sizeof longest);
    longest[UN_ACCOUNT_NAME_MAX + 1] = '\0';
    CHECK(!un_account_parse(longest, &name));
    CHECK(un_account_parse(longest + 1, &name));
}

static void the_first_valid_line_counts(void)
{
    const char *passwd =
        "app:x:-1:5:::\napp:x:7:7\n#app\n:\napp:x:1234:1235::/srv:\napp:x:1:1:::\n";
    CHECK_OK(find("app", NULL, passwd, ""), &err);
    CHECK_INT(found.id[UN_UID], 1234);
    CHECK_INT(found.id[UN_GID], 1235);
    CHECK_TEXT(found.home, "/srv");
    CHECK_INT((int)found.group_count, 1);
}

static void groups_are_listed_once_and_in_order(void)
{
    const char *groups =
        "b:x:9:x,app\na:x:3:app\nc:x:9:app\nd:x:4:apple\ne:x:4294967295:app\nf:x:5:app";
    CHECK_OK(find("app", NULL, "app:x:1:7:::", groups), &err);
    const gid_t want[] = {3, 5, 7, 9};
    CHECK_INT((int)found.group_count, COUNT(want));
    for (size_t i = 0; i < COUNT(want); i++)
        CHECK_INT(found.groups[i], want[i]);
    CHECK_OK(find("app", "c", "app:x:1:7:::", groups), &err);
    CHECK_INT(found.id[UN_GID], 9);
    CHECK_INT((int)found.group_count, 0);
}

static void ids_need_no_file(void)
{
    CHECK_OK(find("7", NULL, NULL, NULL), &err);
    CHECK_INT(found.id[UN_GID], 7);
    CHECK_OK(find("7", "8", NULL, NULL), &err);
    CHECK_INT(found.id[UN_GID], 8);
    CHECK_INT((int)found.group_count, 0);
}

static void unusable_homes_are_left_out(void)
{
    static const char *const homes[] = {"", "relative", "/a\x1b[2J", "/\xff", "/a\xe2\x80"};
    for (size_t i = 0; i < COUNT(homes); i++) {
        char passwd[64];
        snprintf(passwd, sizeof passwd, "app:x:1:1::%s:", homes[i]);
        CHECK_OK(find("app", NULL, passwd, NULL), &err);
        CHECK_TEXT(found.home, "");
    }
    char longest[2 * UN_PATH_MAX];
    snprintf(longest, sizeof longest, "app:x:1:1::/%0*d:", UN_PATH_MAX, 0);
    CHECK_OK(find("app", NULL, longest, NULL), &err);
    CHECK_TEXT(found.home, "");
}

static void bytes_after_a_nul_are_part_of_the_line(void)
{
    static const char bytes[] = "app\0:x:2:2:::\napp:x:3\0:3:::\napp:x:5:6::/\0:\n";
    const struct un_account_file passwd = {bytes, sizeof bytes - 1}, none = {NULL, 0};
    CHECK_OK(un_account_find("app", NULL, &passwd, &none, &found, &err), &err);
    CHECK_INT(found.id[UN_UID], 5);
    CHECK_TEXT(found.home, "");
}

static void unknown_names_are_refused(void)
{
    CHECK_INT(find("app", NULL, "apple:x:1:1:::\nap:x:1:1:::", ""), -1);
    CHECK_TEXT(err.detail, "the sandbox has no user 'app': /etc/passwd has no such name");
    CHECK_TEXT(err.cause, "user-unknown");
    CHECK_INT(find("app", NULL, NULL, ""), -1);
    CHECK_TEXT(err.detail, "the sandbox has no user 'app': /etc/passwd is missing in the sandbox");
    CHECK_INT(find("7", "app", NULL, NULL), -1);
    CHECK_TEXT(err.detail, "the sandbox has no group 'app': /etc/group is missing in the sandbox");
    CHECK_HAS(err.remedy, "give numbers");
}

static void errors_that_are_not_about_the_file_have_no_cause(void)
{
    static const int unrelated[] = {ENOMEM, EMFILE, ENFILE, EIO}, own[] = {EACCES, ELOOP, ENOTDIR};
    for (size_t i = 0; i < COUNT(unrelated); i++) {
        CHECK_INT(un_account_fail_file(UN_ACCOUNT_PASSWD, unrelated[i], "", &err), -1);
        CHECK(!err.cause && !*err.remedy);
        CHECK_INT(err.errnum, unrelated[i]);
        CHECK_INT(err.step, UN_STEP_USER);
        CHECK_TEXT(err.detail, "/etc/passwd");
    }
    for (size_t i = 0; i < COUNT(own); i++) {
        CHECK_INT(un_account_fail_file(UN_ACCOUNT_PASSWD, own[i], "", &err), -1);
        CHECK_TEXT(err.cause, "user-unknown");
        CHECK_HAS(err.remedy, "give numbers");
        CHECK_INT(err.errnum, own[i]);
    }
}

static void too_many_groups_are_refused(void)
{
    static char groups[(UN_ACCOUNT_GROUPS_MAX + 1) * 24];
    char *to = groups;
    for (int i = UN_ACCOUNT_GROUPS_MAX; i > 0; i--)
        to += sprintf(to, "g:x:%d:app\n", i);
    CHECK_OK(find("app", NULL, "app:x:1:1:::", groups), &err);
    CHECK_INT((int)found.group_count, UN_ACCOUNT_GROUPS_MAX);
    CHECK_INT(find("app", NULL, "app:x:0:0:::", groups), -1);
    CHECK_HAS(err.detail, "the limit is 4096");
}

int main(void)
{
    names_and_numbers_are_parsed();
    malformed_names_are_refused();
    the_first_valid_line_counts();
    groups_are_listed_once_and_in_order();
    ids_need_no_file();
    unusable_homes_are_left_out();
    bytes_after_a_nul_are_part_of_the_line();
    unknown_names_are_refused();
    errors_that_are_not_about_the_file_have_no_cause();
    too_many_groups_are_refused();
    return 0;
}
