#include "base/base.h"
#include "explain/explain.h"

#include <stddef.h>
#include <string.h>

#define SET '\1'
#define NOT '\2'
#define END '\3'

/* More times than anything in a sequence may be repeated. */
#define MANY 1000

/* Characters of a set, so many times. */
struct times {
    const char *set; /* up to the next SET */
    uint64_t least;
    uint64_t most;
};

/* Reads what follows SET. Returns what comes behind, or NULL. */
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

static bool has(const char *set, char member)
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

/* Behind a character of UTF-8, or of anything else. */
static const char *behind(const char *text)
{
    do
        text++;
    while (((unsigned char)*text & 0xc0) == 0x80);
    return text;
}

/* The END of what follows NOT, or NULL. */
static const char *end_of(const char *at)
{
    for (int depth = 1; *at; at++) {
        depth += (*at == NOT) - (*at == END);
        if (!depth)
            return at;
    }
    return NULL;
}

static bool begins_with_set(const char *sequence, const char *text)
{
    struct times times;
    const char *rest = read_times(sequence, &times);
    if (!rest)
        return false;
    for (uint64_t count = 0;; count++) {
        if (count >= times.least && un_match_start(rest, text))
            return true;
        if (count >= times.most || !*text || !has(times.set, *text))
            return false;
        text = behind(text);
    }
}

/* It calls itself at most once for each SET and NOT. */
bool un_match_start(const char *sequence, const char *text)
{
    for (; *sequence && *sequence != END; sequence++) {
        if (*sequence == SET)
            return begins_with_set(sequence + 1, text);
        if (*sequence == NOT) {
            const char *end = end_of(sequence + 1);
            if (!end || un_match_start(sequence + 1, text))
                return false;
            sequence = end;
        } else if (*sequence != *text++) {
            return false;
        }
    }
    return true;
}

bool un_match(const char *sequence, const char *text)
{
    bool is_plain = *sequence && !strchr("\1\2\3", *sequence);
    for (;;) {
        text = is_plain ? strchr(text, *sequence) : text;
        if (!text)
            return false;
        if (un_match_start(sequence, text))
            return true;
        if (!*text)
            return false;
        text++;
    }
}
