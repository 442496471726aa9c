/* Tests of un_match(), which searches a text for a match of a pattern (explain.h). */
#include "check.h"
#include "explain/explain.h"

static bool has(const char *pattern, const char *text)
{
    return un_match(pattern, text, strlen(text));
}

static bool begins(const char *pattern, const char *text)
{
    return un_match_start(pattern, text, strlen(text));
}

static void characters_stand_for_themselves(void)
{
    CHECK(has("abc", "xabcx"));
    CHECK(has("abc", "aababc"));
    CHECK(!has("abc", "ab"));
    CHECK(!has("abc", ""));
    CHECK(has("", ""));
    CHECK(begins("abc", "abcd"));
    CHECK(!begins("abc", "xabc"));
    CHECK(begins("abc" UN_MATCH_END, "abc"));
    CHECK(!begins("abc" UN_MATCH_END, "abcd"));
    CHECK(!begins("abc" UN_MATCH_END, "abc\n"));
}

static void sets_match_a_number_of_characters(void)
{
    CHECK(has("new\1ug\0011,1;id", "x newgid"));
    CHECK(!has("new\1ug\0011,1;id", "newid newxid newuuid"));
    CHECK(has("a\1^\n\0010,3;b", "axxxb"));
    CHECK(!has("a\1^\n\0010,3;b", "axxxxb"));
    CHECK(!has("a\1^\n\0010,3;b", "a\nb"));
    /* Repetitions are greedy, backtrack, and have a minimum and a maximum. */
    CHECK(has("a\1a-c\0011,9;c", "xabcbc"));
    CHECK(has("\0010-9\0012,2;x", "123x"));
    CHECK(!has("\0010-9\0012,2;" UN_MATCH_END, "1"));
    /* Repetitions count characters, not bytes. */
    CHECK(has("a\1^\n\0012,2;b", "a\xc3\xa9\xf0\x9f\x98\x80"
                                 "b"));
    CHECK(!has("a\1a-z\0010,9;b", "a\xc3\xa9"
                                  "b"));
    CHECK(has("x\1a-z_-\0011,9;y", "xa-_by"));
    CHECK(has("\1\\\0010,1;\"", "\\\""));
}

static void excluded_patterns_do_not_match(void)
{
    CHECK(has("denied\2: check\003", "denied: why"));
    CHECK(!has("denied\2: check\003", "denied: check"));
    CHECK(has("denied\2: check\003", "denied: check denied"));
    /* The pattern matches "-" unless an "a" follows that is not followed by a letter. So it does
     * not match "-a", but it matches "-ab". */
    CHECK(!has("-\2a\2\1a-z\0011,1;\003\003", "-a"));
    CHECK(has("-\2a\2\1a-z\0011,1;\003\003", "-ab"));
    CHECK(has("-\2a\003\2b\003c", "-c"));
}

static void malformed_patterns_match_nothing(void)
{
    CHECK(!has("\1", "x"));
    CHECK(!has("\1x", "x"));
    CHECK(!has("\1x\001", "x"));
    CHECK(!has("\1x\0011", "x"));
    CHECK(!has("\1x\0011,", "x"));
    CHECK(!has("\1x\0011,2", "x"));
    CHECK(!has("\1x\0011,2000;", "x"));
    CHECK(!has("\2x", "y"));
    CHECK(!has("\2x\2", "y"));
}

/* Checks that the size of a text determines its end, even if the text contains a NUL. */
static void text_may_contain_any_bytes(void)
{
    static const char text[] = "a\0b denied";
    CHECK(un_match("denied", text, sizeof text - 1) == text + 4);
    CHECK(un_match("a\1^\n\0011,1;b", text, sizeof text - 1) == text);
    CHECK(!un_match("denied", text, sizeof text - 2));
    CHECK(!un_match("denie\1d\0011,1;", text, sizeof text - 2));
    CHECK(un_match("denie\2d\003", text, sizeof text - 2) == text + 4);
    CHECK(!un_match("a", "", 0));
    /* un_match() finds the leftmost match, whichever literal part it searches for first. */
    CHECK(un_match("\0010-9\0011,2; denied", "1 x 23 denied", 13));
    CHECK_TEXT(un_match("\0010-9\0011,2; denied", "1 x 23 denied", 13), "23 denied");
    /* More than four bytes never count as one character. */
    CHECK(!has("a\1^\n\0011,1;b", "a\xf0\x9f\x98\x80\x80"
                                  "b"));
    CHECK(has("a\1^\n\0012,2;b", "a\xf0\x9f\x98\x80\x80"
                                 "b"));
}

int main(void)
{
    characters_stand_for_themselves();
    sets_match_a_number_of_characters();
    excluded_patterns_do_not_match();
    malformed_patterns_match_nothing();
    text_may_contain_any_bytes();
}
