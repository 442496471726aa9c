/* Tests of parsing /etc/subuid and /etc/subgid: which lines belong to a user, and which are
 * malformed. */
#include "ranges.h"

#include <errno.h>
#include <sys/stat.h>

static struct un_ranges ranges;
static struct un_notices notices;

static void read_from(const char *path, const char *user, uint32_t uid)
{
    struct un_error err;
    memset(&notices, 0, sizeof notices);
    memset(&ranges, 0xff, sizeof ranges);
    CHECK_OK(un_subid_read(path, user, uid, &ranges, &notices, &err), &err);
}

static void read_bytes(const char *text, size_t length, const char *user, uint32_t uid)
{
    struct scratch file;
    write_file(&file, text, length);
    read_from(file.path, user, uid);
    remove_file(&file);
}

static void read_text(const char *text, const char *user, uint32_t uid)
{
    read_bytes(text, strlen(text), user, uid);
}

static void check_range(uint32_t index, uint32_t start, uint32_t count)
{
    CHECK(index < ranges.len);
    CHECK_INT(ranges.range[index].start, start);
    CHECK_INT(ranges.range[index].count, count);
}

static void lines_match_by_exact_name_or_uid(void)
{
    static const struct {
        const char *text;
        const char *user;
        uint32_t uid;
        uint32_t found;
    } cases[] = {
        {"anna:7:1\n", "anna", 1000, 1},
        {"1000:7:1\n", "anna", 1000, 1},
        {"anna:7:1\n1000:9:1\n", "anna", 1000, 2},
        {"annabel:7:1\nann:7:1\nANNA:7:1\n", "anna", 1000, 0},
        {" anna:7:1\nanna :7:1\n", "anna", 1000, 0},
        {"10000:7:1\n100:7:1\n1000x:7:1\n01000:7:1\n+1000:7:1\n0x3e8:7:1\n", "anna", 1000, 0},
        /* strtoul(3) would parse each of these names as 0, but only lines with "root" or "0" belong
         * to root. */
        {"anna:7:1\n0x0:7:1\n00:7:1\n-0:7:1\n:7:1\n   :7:1\n", "root", 0, 0},
        {"root:7:1\n", "root", 0, 1},
        {"0:7:1\n", "root", 0, 1},
        {"0x0:7:1\n", "0x0", 5, 1},
        {"0x0:7:1\n", "root", 0, 0},
        /* The user with the uid 0 may have a name other than root, and the user root a uid other
         * than 0. */
        {"root:7:1\n", "toor", 0, 0},
        {"0:7:1\n", "root", 5, 0},
        /* If a user's name consists of digits, lines that begin with the name belong to the user,
         * although the uid differs. */
        {"2000:7:1\n", "2000", 5, 1},
        /* A line belongs to a user without a name only if it begins with the uid. A line with an
         * empty name belongs to nobody. */
        {":7:1\n", "", 1000, 0},
        {"1000:7:1\n", "", 1000, 1},
        {"4294967294:7:1\n", "", 4294967294, 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        read_text(cases[i].text, cases[i].user, cases[i].uid);
        CHECK_INT(ranges.len, cases[i].found);
        if (cases[i].found)
            check_range(0, 7, 1);
    }
}

static void all_ranges_are_read_in_order(void)
{
    read_text("anna:100000:65536\nbob:200000:65536\n# anna:5:5\n\nanna:300000:10\n1000:1:1\n",
              "anna", 1000);
    CHECK_INT(ranges.len, 3);
    check_range(0, 100000, 65536);
    check_range(1, 300000, 10);
    check_range(2, 1, 1);
    CHECK_INT(notices.len, 0);
}

static void the_last_line_needs_no_newline(void)
{
    read_text("bob:1:1\nanna:100000:65536", "anna", 1000);
    CHECK_INT(ranges.len, 1);
    check_range(0, 100000, 65536);
    CHECK_INT(notices.len, 0);
}

static void malformed_lines_are_reported_and_skipped(void)
{
    static const struct {
        const char *line;
        const char *says;
    } cases[] = {
        {"anna", "expected name:start:count"},
        {"anna:", "expected name:start:count"},
        {"anna:1", "expected name:start:count"},
        {"anna:1:", "expected name:start:count"},
        {"anna::1", "expected name:start:count"},
        {"anna:x:1", "expected name:start:count"},
        {"anna:1:1x", "expected name:start:count"},
        {"anna:1:1:1", "expected name:start:count"},
        {"anna:-1:1", "expected name:start:count"},
        {"anna:08:1", "expected name:start:count"},
        {"anna:1 :1", "expected name:start:count"},
        {"anna:4294967296:1", "expected name:start:count"},
        {"anna:99999999999999999999999:1", "expected name:start:count"},
        {"anna:1:1\r", "the line ends with CR LF"},
        {"anna:1:0", "the count is 0"},
        {"anna:4294967295:1", "the range goes past 4294967294"},
        {"anna:4294967294:2", "the range goes past 4294967294"},
        {"anna:1:4294967295", "the range goes past 4294967294"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[128];
        snprintf(text, sizeof text, "# one\n%s\nanna:100000:65536\n", cases[i].line);
        read_text(text, "anna", 1000);
        CHECK_INT(ranges.len, 1);
        check_range(0, 100000, 65536);
        CHECK_INT(notices.len, 1);
        CHECK_HAS(notices.text[0], ", line 2 is skipped: ");
        CHECK_HAS(notices.text[0], "/tmp/usernsctl-test-");
        CHECK_HAS(notices.text[0], cases[i].says);
    }
}

static void the_last_id_may_be_in_a_range(void)
{
    read_text("anna:4294967294:1\nanna:0:4294967295\n", "anna", 1000);
    CHECK_INT(ranges.len, 2);
    check_range(0, 4294967294, 1);
    check_range(1, 0, 4294967295);
    CHECK_INT(notices.len, 0);
}

/* Checks a file that is larger than the blocks in which it is read, so that some lines span two
 * blocks. */
static void a_large_file_is_read_to_its_end(void)
{
    static char text[200000];
    size_t length = 0;
    for (unsigned i = 0; length < sizeof text - 200; i++)
        length += (size_t)sprintf(text + length, "user%u:%u:10\n", i, 1000000 + 10 * i);
    sprintf(text + length, "anna:5:1\nanna:100000:65536\nlast:100001:1");
    read_text(text, "anna", 1000);
    CHECK_INT(ranges.len, 2);
    check_range(0, 5, 1);
    check_range(1, 100000, 65536);
    /* Ranges that overlap another user's range are reported, even if the other user's line comes
     * first. */
    CHECK_INT(notices.len, 1);
    CHECK_HAS(notices.text[0], "the ids 100001:1 of last overlap a range of this user");
    memcpy(text, "early:5:3\n#", 11);
    read_text(text, "anna", 1000);
    CHECK_INT(notices.len, 2);
    CHECK_HAS(notices.text[0], "line 1: the ids 5:3 of early overlap a range of this user");
}

static void lines_that_are_too_long_are_skipped(void)
{
    static char text[5000];
    /* The rest of a line that is too long must not be parsed as another line. */
    memset(text, 'x', 1023);
    strcpy(text + 1023, "\nanna:1:1\n");
    read_text(text, "anna", 1000);
    CHECK_INT(ranges.len, 1);
    CHECK_HAS(notices.text[0], "line 1 is skipped: the line is too long");

    memset(text, 'x', 1023);
    strcpy(text + 1023, "anna:1:1\nanna:2:2\n");
    read_text(text, "anna", 1000);
    CHECK_INT(ranges.len, 1);
    check_range(0, 2, 2);

    memset(text, 'x', 4000);
    strcpy(text + 4000, ":1:1\nanna:2:2");
    read_text(text, "anna", 1000);
    CHECK_INT(ranges.len, 1);
    check_range(0, 2, 2);
    CHECK_HAS(notices.text[0], "line 1 is skipped: the line is too long");

    /* A comment of any length is accepted without a notice. */
    text[0] = '#';
    read_text(text, "anna", 1000);
    CHECK_INT(ranges.len, 1);
    CHECK_INT(notices.len, 0);
}

static void a_file_of_ten_megabytes_is_read(void)
{
    static const char filler[] = "somebody_else:1879048192:65536\n";
    static const char own[] = "anna:100000:65536\n";
    size_t lines = 10 * 1024 * 1024 / strlen(filler);
    size_t size = lines * strlen(filler) + strlen(own);
    char *text = malloc(size + 1);
    CHECK(text != NULL);
    for (size_t i = 0; i < lines; i++)
        memcpy(text + i * strlen(filler), filler, strlen(filler));
    strcpy(text + lines * strlen(filler), own);
    read_bytes(text, size, "anna", 1000);
    free(text);
    CHECK_INT(ranges.len, 1);
    check_range(0, 100000, 65536);
    CHECK_INT(notices.len, 0);
}

static void bytes_that_are_no_text_are_skipped(void)
{
    static const char text[] = "anna:1:1\0:2:2\nanna\0:3:3\n\0\n\xff\xfe:1:1\nanna:4:4\n";
    read_bytes(text, sizeof text - 1, "anna", 1000);
    CHECK_INT(ranges.len, 2);
    check_range(0, 1, 1);
    check_range(1, 4, 4);
}

static void overlapping_grants_are_reported(void)
{
    static const struct {
        const char *other;
        bool shared;
    } cases[] = {
        {"bob:165535:1", true},
        {"bob:165536:1", false},
        {"bob:99999:1", false},
        {"bob:99999:2", true},
        {"bob:0:4294967295", true},
        {"2000:120000:10", true},
        {"bob:120000:0", false},
        {"#bob:120000:10", false},
        {"# bob:120000:10", false},
        {":120000:10", false},
        /* Ranges of the same user may overlap without a notice. */
        {"anna:120000:10", false},
        {"1000:120000:10", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[128];
        snprintf(text, sizeof text, "%s\nanna:100000:65536\n", cases[i].other);
        read_text(text, "anna", 1000);
        CHECK(ranges.len >= 1);
        CHECK_INT(notices.len, cases[i].shared);
        if (cases[i].shared) {
            CHECK_HAS(notices.text[0], "line 1: the ids ");
            CHECK_HAS(notices.text[0], "overlap a range of this user");
        }
    }
}

static void excess_notices_are_counted(void)
{
    char text[1024] = "";
    for (int i = 0; i < UN_NOTICES + 3; i++)
        strcat(text, "anna:1:0\n");
    read_text(text, "anna", 1000);
    CHECK_INT(ranges.len, 0);
    CHECK_INT(notices.len, UN_NOTICES);
    CHECK_HAS(notices.text[UN_NOTICES - 2], "line 7 is skipped");
    CHECK_TEXT(notices.text[UN_NOTICES - 1], "and 4 more");
    CHECK_INT(notices.more, 4);
}

static void more_ranges_than_a_map_holds_are_left_out(void)
{
    static char text[UN_MAP_MAX * 32];
    char *at = text;
    for (int i = 0; i < UN_MAP_MAX; i++)
        at += snprintf(at, 32, "anna:%d:1\n", 100000 + 2 * i);
    read_text(text, "anna", 1000);
    /* A map has at most UN_MAP_MAX extents, and the caller's own id needs one extent, so the last
     * range is skipped. */
    CHECK_INT(ranges.len, UN_MAP_MAX - 1);
    check_range(UN_MAP_MAX - 2, 100000 + 2 * (UN_MAP_MAX - 2), 1);
    CHECK_INT(notices.len, 1);
    CHECK_HAS(notices.text[0], "line 340 is skipped: more ranges than a map can hold");
}

/* Checks that numbers are parsed as strtoul(3) parses them, because newuidmap uses strtoul(3). */
static void numbers_are_parsed_as_newuidmap_does(void)
{
    read_text("anna: 100000:\t65536\nanna:+200000:0x10\nanna:0100:010\n", "anna", 1000);
    CHECK_INT(ranges.len, 3);
    check_range(0, 100000, 65536);
    check_range(1, 200000, 16);
    check_range(2, 64, 8);
}

static void no_file_means_no_ranges(void)
{
    read_from("/no/such/subuid", "anna", 1000);
    CHECK_INT(ranges.len, 0);
    CHECK_INT(notices.len, 0);
    read_text("", "anna", 1000);
    CHECK_INT(ranges.len, 0);
}

static void a_file_that_can_not_be_read_is_an_error(void)
{
    struct un_error err;
    CHECK_INT(un_subid_read("/", "anna", 1000, &ranges, &notices, &err), -1);
    CHECK_INT(err.step, UN_STEP_SUBID);
    CHECK_TEXT(err.cause, "subid-not-a-file");
    CHECK_TEXT(err.detail, "/ is not a regular file");

    struct scratch file;
    write_file(&file, "anna:1:1\n", 9);
    CHECK_INT(chmod(file.path, 0), 0);
    /* Root can read a file of any mode, so only other users get EACCES. */
    if (geteuid() != 0) {
        CHECK_INT(un_subid_read(file.path, "anna", 1000, &ranges, &notices, &err), -1);
        CHECK_INT(err.errnum, EACCES);
        CHECK_TEXT(err.cause, "subid-file-unreadable");
        CHECK_TEXT(err.detail, file.path);
    }
    remove_file(&file);
}

/* Checks that a symbolic link is not taken for a missing or unreadable file: usermod(8) can't add a
 * range to the former, and chmod(1) would change the mode of another file for the latter. */
static void a_link_that_can_not_be_read_is_no_file(void)
{
    struct un_error err;
    struct scratch file;
    write_file(&file, "", 0);
    const char *const targets[] = {"/no/such/subuid", file.path, "/proc/1/mem"};
    for (size_t i = 0; i < COUNT(targets); i++) {
        CHECK_INT(unlink(file.path), 0);
        CHECK_INT(symlink(targets[i], file.path), 0);
        /* Root can read any file. */
        if (i == 2 && geteuid() == 0)
            continue;
        CHECK_INT(un_subid_read(file.path, "anna", 1000, &ranges, &notices, &err), -1);
        CHECK_TEXT(err.cause, "subid-not-a-file");
    }
    remove_file(&file);
}

int main(void)
{
    lines_match_by_exact_name_or_uid();
    all_ranges_are_read_in_order();
    the_last_line_needs_no_newline();
    malformed_lines_are_reported_and_skipped();
    the_last_id_may_be_in_a_range();
    a_large_file_is_read_to_its_end();
    lines_that_are_too_long_are_skipped();
    a_file_of_ten_megabytes_is_read();
    bytes_that_are_no_text_are_skipped();
    overlapping_grants_are_reported();
    excess_notices_are_counted();
    more_ranges_than_a_map_holds_are_left_out();
    numbers_are_parsed_as_newuidmap_does();
    no_file_means_no_ranges();
    a_file_that_can_not_be_read_is_an_error();
    a_link_that_can_not_be_read_is_no_file();
    return 0;
}
