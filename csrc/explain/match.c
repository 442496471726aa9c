#include "base/base.h"
#include "explain/explain.h"

#define SET '\1'
#define NOT '\2'
#define END '\3'
#define MARKS "\1\2\3"

/* Maximum of the repetition counts LEAST and MOST of a pattern (explain.h). No pattern of the
 * catalogue reaches the maximum. */
#define MANY 1000

/* Maximum number of bytes of a character in UTF-8. */
#define CHARACTER_MAX 4

/* A repetition in a pattern, \1SET\1LEAST,MOST; (explain.h). */
struct times {
    const char *set; /* the characters of SET, up to the next \1 */
    uint64_t least;
    uint64_t most;
};

/* Parses a repetition from the byte after its first \1. Returns the position after the repetition,
 * or NULL if the repetition is malformed. */
static const char *read_times(const char *at, struct times *times)
{
    times->set = at;
    at = strchr(at, SET);
    if (at)
        at = un_number_read(at + 1, MANY, &times->least);
    if (!at || *at != ',')
        return NULL;
    at = un_number_read(at + 1, MANY, &times->most);
    return at && *at == ';' ? at + 1 : NULL;
}

static bool has_member(const char *set, char member)
{
    bool others = *set == '^', found = false;
    set += others;
    while (*set != SET) {
        bool is_range = set[1] == '-' && set[2] != SET;
        found = found || (member >= *set && member <= set[is_range ? 2 : 0]);
        set += is_range ? 3 : 1;
    }
    return found != others;
}

/* Returns the end of the UTF-8 character at `text`. A byte of invalid UTF-8 counts as one
 * character. */
static const char *skip_character(const char *text, const char *end)
{
    const char *most = end - text > CHARACTER_MAX ? text + CHARACTER_MAX : end;
    do
        text++;
    while (text < most && ((unsigned char)*text & 0xc0) == 0x80);
    return text;
}

/* Returns a pointer to the \3 that closes a negative lookahead, or NULL if the lookahead is not
 * closed. `at` points to the byte after the \2. */
static const char *find_end(const char *at)
{
    for (int depth = 1; *at; at++) {
        depth += (*at == NOT) - (*at == END);
        if (!depth)
            return at;
    }
    return NULL;
}

static bool begins_with(const char *pattern, const char *text, const char *end);

static bool begins_with_set(const char *pattern, const char *text, const char *end)
{
    struct times times;
    const char *rest = read_times(pattern, &times);
    if (!rest)
        return false;
    for (uint64_t count = 0;; count++) {
        if (count >= times.least && begins_with(rest, text, end))
            return true;
        if (count >= times.most || text == end || !has_member(times.set, *text))
            return false;
        text = skip_character(text, end);
    }
}

/* Returns whether `pattern` matches the beginning of `text`. The depth of the recursion is at most
 * the number of repetitions and lookaheads in the pattern. */
static bool begins_with(const char *pattern, const char *text, const char *end)
{
    for (; *pattern && *pattern != END; pattern++) {
        if (*pattern == SET)
            return begins_with_set(pattern + 1, text, end);
        if (*pattern == NOT) {
            const char *behind = find_end(pattern + 1);
            if (!behind || begins_with(pattern + 1, text, end))
                return false;
            pattern = behind;
        } else if (text == end || *pattern != *text++) {
            return false;
        }
    }
    return true;
}

bool un_match_start(const char *pattern, const char *text, size_t size)
{
    return begins_with(pattern, text, text + size);
}

/* Returns the longest literal part of `pattern`, and stores the length of that part in *length.
 * Every string that matches the pattern contains this part. */
static const char *find_plain(const char *pattern, size_t *length)
{
    const char *longest = pattern;
    *length = 0;
    while (pattern && *pattern) {
        size_t plain = strcspn(pattern, MARKS);
        struct times ignored;
        if (plain > *length) {
            longest = pattern;
            *length = plain;
        }
        pattern += plain;
        if (*pattern == SET)
            pattern = read_times(pattern + 1, &ignored);
        else if (*pattern)
            pattern = find_end(pattern + 1);
        if (pattern && *pattern == END)
            pattern++;
    }
    return longest;
}

const char *un_match(const char *pattern, const char *text, size_t size)
{
    const char *end = text + size;
    size_t prefix = strcspn(pattern, MARKS), plain_length;
    /* Before begins_with() is tried at each position, search for the literal prefix of the pattern,
     * and then for its longest literal part. Most texts lack one of them, and memmem(3) is many
     * times faster than begins_with() and find_plain(). */
    text = memmem(text, size, pattern, prefix);
    if (!text)
        return NULL;
    const char *plain = find_plain(pattern, &plain_length);
    if (plain_length > prefix && !memmem(text, (size_t)(end - text), plain, plain_length))
        return NULL;
    while (text && !begins_with(pattern + prefix, text + prefix, end))
        text = text == end ? NULL : memmem(text + 1, (size_t)(end - text) - 1, pattern, prefix);
    return text;
}
