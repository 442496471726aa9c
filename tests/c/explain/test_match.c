/* Sequences, and the texts that they are in. */
#include "check.h"
#include "explain/explain.h"

static void characters_stand_for_themselves(void)
{
    CHECK(un_match("abc", "xabcx"));
    CHECK(un_match("abc", "aababc"));
    CHECK(!un_match("abc", "ab"));
    CHECK(!un_match("abc", ""));
    CHECK(un_match("", ""));
    CHECK(un_match_start("abc", "abcd"));
    CHECK(!un_match_start("abc", "xabc"));
    CHECK(un_match_start("abc" UN_MATCH_END, "abc"));
    CHECK(!un_match_start("abc" UN_MATCH_END, "abcd"));
    CHECK(!un_match_start("abc" UN_MATCH_END, "abc\n"));
}

static void sets_stand_for_so_many(void)
{
    CHECK(un_match("new\1ug\0011,1;id", "x newgid"));
    CHECK(!un_match("new\1ug\0011,1;id", "newid newxid newuuid"));
    CHECK(un_match("a\1^\n\0010,3;b", "axxxb"));
    CHECK(!un_match("a\1^\n\0010,3;b", "axxxxb"));
    CHECK(!un_match("a\1^\n\0010,3;b", "a\nb"));
    /* As many as it takes, and as few. */
    CHECK(un_match("a\1a-c\0011,9;c", "xabcbc"));
    CHECK(un_match("\0010-9\0012,2;x", "123x"));
    CHECK(!un_match("\0010-9\0012,2;" UN_MATCH_END, "1"));
    /* Characters are counted, not bytes. */
    CHECK(un_match("a\1^\n\0012,2;b", "a\xc3\xa9\xf0\x9f\x98\x80"
                                      "b"));
    CHECK(!un_match("a\1a-z\0010,9;b", "a\xc3\xa9"
                                       "b"));
    CHECK(un_match("x\1a-z_-\0011,9;y", "xa-_by"));
    CHECK(un_match("\1\\\0010,1;\"", "\\\""));
}

static void what_may_not_come_is_looked_for(void)
{
    CHECK(un_match("denied\2: check\003", "denied: why"));
    CHECK(!un_match("denied\2: check\003", "denied: check"));
    CHECK(un_match("denied\2: check\003", "denied: check denied"));
    /* Not a, unless more letters follow. */
    CHECK(!un_match("-\2a\2\1a-z\0011,1;\003\003", "-a"));
    CHECK(un_match("-\2a\2\1a-z\0011,1;\003\003", "-ab"));
    CHECK(un_match("-\2a\003\2b\003c", "-c"));
}

static void what_is_malformed_is_nowhere(void)
{
    CHECK(!un_match("\1", "x"));
    CHECK(!un_match("\1x", "x"));
    CHECK(!un_match("\1x\001", "x"));
    CHECK(!un_match("\1x\0011", "x"));
    CHECK(!un_match("\1x\0011,", "x"));
    CHECK(!un_match("\1x\0011,2", "x"));
    CHECK(!un_match("\1x\0011,2000;", "x"));
    CHECK(!un_match("\2x", "y"));
}

int main(void)
{
    characters_stand_for_themselves();
    sets_stand_for_so_many();
    what_may_not_come_is_looked_for();
    what_is_malformed_is_nowhere();
}
