#include "explain/explain.h"

#include <string.h>

/* How likely something is: by how many causes the message has, and the place among them. */
struct rank {
    size_t of;
    size_t place;
};

static const char *next(const char *word)
{
    return word + strlen(word) + 1;
}

/* Behind the list that begins here. */
static const char *behind(const char *list)
{
    while (*list)
        list = next(list);
    return list + 1;
}

static size_t length_of(const char *list)
{
    size_t count = 0;
    for (; *list; list = next(list))
        count++;
    return count;
}

static bool is_before(struct rank one, struct rank other)
{
    return one.of < other.of || (one.of == other.of && one.place < other.place);
}

/* Adds a cause, or takes note that it is likelier than it was. */
static void add(struct un_candidates *found, struct rank ranks[], const char *id, struct rank rank)
{
    size_t at = 0;
    while (at < found->count && strcmp(found->id[at], id))
        at++;
    if (at == UN_CANDIDATES_MAX || (at < found->count && !is_before(rank, ranks[at])))
        return;
    found->count += at == found->count;
    found->id[at] = id;
    ranks[at] = rank;
}

/* The likeliest first. Those of one rank stay in the order in which they were found first. */
static void sort(struct un_candidates *found, struct rank ranks[])
{
    for (size_t i = 1; i < found->count; i++) {
        const char *id = found->id[i];
        struct rank rank = ranks[i];
        size_t at = i;
        for (; at && is_before(rank, ranks[at - 1]); at--) {
            found->id[at] = found->id[at - 1];
            ranks[at] = ranks[at - 1];
        }
        found->id[at] = id;
        ranks[at] = rank;
    }
}

static bool has_any(const char *text, const char *sequences)
{
    for (; *sequences; sequences = next(sequences))
        if (un_match(sequences, text))
            return true;
    return false;
}

void un_candidates_find(const char *text, struct un_candidates *found)
{
    struct rank ranks[UN_CANDIDATES_MAX];
    found->count = 0;
    for (const char *at = un_texts; *at; at = behind(behind(at))) {
        const char *causes = behind(at);
        struct rank rank = {.of = length_of(causes), .place = 0};
        if (!has_any(text, at))
            continue;
        for (const char *id = causes; *id; id = next(id), rank.place++)
            add(found, ranks, id, rank);
    }
    sort(found, ranks);
}
