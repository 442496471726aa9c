/* Searching a text for messages of the catalogue, and ranking the causes of these messages. */
#include "explain/explain.h"

#include <string.h>

/* The rank of a possible cause of a message: `of` is the number of possible causes of the message,
 * and `place` the position of this cause in their list. Causes are sorted by `of`, then by `place`,
 * lowest first. */
struct rank {
    size_t of;
    size_t place;
};

/* The ids of all causes in the catalogue. */
struct ids {
    size_t count;
    const char *id[UN_CAUSES_MAX];
};

static size_t count_words(const char *list)
{
    size_t count = 0;
    for (; *list; list = un_texts_next(list))
        count++;
    return count;
}

/* Returns whether `search` already contains the message or hint whose list of causes in texts.c is
 * `causes`. No two messages or hints share a list, so the pointer identifies them. */
static bool has_causes(const struct un_search *search, const char *causes)
{
    for (size_t i = 0; i < search->count; i++)
        if (search->occurrence[i].causes == causes)
            return true;
    return false;
}

static void add_occurrence(struct un_search *search, struct un_occurrence found)
{
    if (search->count < UN_OCCURRENCES_MAX && !has_causes(search, found.causes))
        search->occurrence[search->count++] = found;
}

/* Returns the beginning of the first match of any of `patterns` in the first `size` bytes of
 * `text`, or NULL if no pattern matches. */
static const char *match_any(const char *patterns, const char *text, size_t size)
{
    const char *first = NULL;
    for (; *patterns; patterns = un_texts_next(patterns)) {
        const char *at = un_match(patterns, text, size);
        if (at && (!first || at < first))
            first = at;
    }
    return first;
}

/* Searches the first `size` bytes of `text` for each message or hint in `entries`, a table in
 * texts.c. Adds those that occur to `search`, unless `search` already contains them. */
static void add_entries(struct un_search *search, const char *entries, bool are_hints,
                        const char *text, size_t size)
{
    for (const char *causes; *entries; entries = un_texts_next_list(causes)) {
        causes = un_texts_next_list(entries);
        const char *at = has_causes(search, causes) ? NULL : match_any(entries, text, size);
        if (at)
            add_occurrence(search, (struct un_occurrence){.at = (size_t)(at - text),
                                                          .is_hint = are_hints,
                                                          .count = count_words(causes),
                                                          .causes = causes});
    }
}

void un_search_add_messages(struct un_search *search, const char *text, size_t size)
{
    add_entries(search, un_texts, false, text, size);
}

static bool is_lower(char byte)
{
    return byte >= 'a' && byte <= 'z';
}

static bool is_word(char byte)
{
    return is_lower(byte) || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           byte == '_';
}

/* If `word` is at the position *at, moves *at past `word` and returns true. Otherwise returns
 * false. */
static bool take_text(const char **at, const char *end, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(end - *at) < length || memcmp(*at, word, length))
        return false;
    *at += length;
    return true;
}

/* Error messages of usernsctl end with [ID], where ID is the id of a cause, and its JSON output
 * contains "cause": "ID". If the part before such an ID is at the position *at, moves *at past that
 * part and returns true. Otherwise returns false. */
static bool take_opening(const char *start, const char **at, const char *end)
{
    if (take_text(at, end, "["))
        return true;
    if ((*at > start && is_word((*at)[-1])) || !take_text(at, end, "cause"))
        return false;
    take_text(at, end, "\"");
    if (!take_text(at, end, ": "))
        return false;
    take_text(at, end, "\"");
    return true;
}

/* Returns the end of the id at `at`, which consists of lower-case words joined by hyphens. */
static const char *find_id_end(const char *at, const char *end)
{
    const char *start = at;
    while (at < end &&
           (is_lower(*at) || (*at == '-' && at > start && at + 1 < end && is_lower(at[1]))))
        at++;
    /* Ids consist of lower-case letters and hyphens. If another word character follows, such as a
     * digit, the last word is not part of an id, so cut off that word. */
    if (at < end && is_word(*at))
        while (at > start && *at != '-')
            at--;
    return at;
}

static const char *find_id(const struct ids *ids, const char *at, size_t length)
{
    for (size_t i = 0; length && i < ids->count; i++)
        if (!strncmp(ids->id[i], at, length) && !ids->id[i][length])
            return ids->id[i];
    return NULL;
}

static void add_own_ids(struct un_search *search, const char *text, size_t size)
{
    const char *end = text + size;
    struct ids ids = {.count = 0};
    for (const char *at = un_text_causes; *at && ids.count < UN_CAUSES_MAX;
         at = un_texts_next_list(at))
        ids.id[ids.count++] = at;
    for (const char *at = text; at < end;) {
        const char *id = at;
        if (!take_opening(text, &id, end)) {
            at++;
            continue;
        }
        const char *id_end = find_id_end(id, end);
        const char *known = find_id(&ids, id, (size_t)(id_end - id));
        if (known)
            add_occurrence(search, (struct un_occurrence){
                                       .at = (size_t)(at - text), .count = 1, .causes = known});
        at = id_end > id ? id_end : at + 1;
    }
}

void un_search_add(struct un_search *search, const char *text, size_t size)
{
    add_own_ids(search, text, size);
    un_search_add_messages(search, text, size);
    add_entries(search, un_text_hints, true, text, size);
}

static bool is_before(struct rank one, struct rank other)
{
    return one.of < other.of || (one.of == other.of && one.place < other.place);
}

/* The causes that add_cause() has ranked so far. */
struct ranking {
    size_t count;
    const char **id;
    struct rank rank[UN_CAUSES_MAX];
};

static size_t find_ranked(const struct ranking *ranking, const char *id)
{
    size_t at = 0;
    while (at < ranking->count && strcmp(ranking->id[at], id))
        at++;
    return at;
}

/* Adds a cause to the ranking, or improves the rank of a cause that the ranking already contains.
 * If `is_hint` is set, adds no cause: a hint alone does not show that anything failed. */
static void add_cause(struct ranking *ranking, const char *id, bool is_hint, struct rank rank)
{
    size_t at = find_ranked(ranking, id);
    bool is_new = at == ranking->count;
    if (is_new ? is_hint || at == UN_CAUSES_MAX : !is_before(rank, ranking->rank[at]))
        return;
    ranking->count += is_new;
    ranking->id[at] = id;
    ranking->rank[at] = rank;
}

static void add_causes(struct ranking *ranking, const struct un_search *search, bool are_hints)
{
    for (size_t i = 0; i < search->count; i++) {
        const struct un_occurrence *found = &search->occurrence[i];
        const char *id = found->causes;
        for (size_t place = 0; found->is_hint == are_hints && place < found->count; place++) {
            struct rank rank = {.of = are_hints ? 0 : found->count, .place = are_hints ? 0 : place};
            add_cause(ranking, id, are_hints, rank);
            id = un_texts_next(id);
        }
    }
}

/* Sorts the causes stably by rank, likeliest first. */
static void sort_causes(struct ranking *ranking)
{
    for (size_t i = 1; i < ranking->count; i++) {
        const char *id = ranking->id[i];
        struct rank rank = ranking->rank[i];
        size_t at = i;
        for (; at && is_before(rank, ranking->rank[at - 1]); at--) {
            ranking->id[at] = ranking->id[at - 1];
            ranking->rank[at] = ranking->rank[at - 1];
        }
        ranking->id[at] = id;
        ranking->rank[at] = rank;
    }
}

size_t un_search_causes(const struct un_search *search, const char *ids[UN_CAUSES_MAX])
{
    struct ranking ranking = {.count = 0, .id = ids};
    add_causes(&ranking, search, false);
    add_causes(&ranking, search, true);
    sort_causes(&ranking);
    return ranking.count;
}
