/* Finding unused ids that could be granted to a user who has no subordinate ids, as useradd(8)
 * does. */
#include "base/base.h"
#include "facts/facts.h"

#define FIRST 100000 /* the lowest subordinate id (SUB_UID_MIN of login.defs(5)) */
/* The lowest id of ordinary users (UID_MIN of login.defs(5)). */
#define FIRST_USER 1000
/* The highest id of ordinary users (UID_MAX of login.defs(5)). */
#define LAST_USER 59999
#define END (UINT64_C(1) << 32)

struct span {
    uint64_t start;
    uint64_t end;
};

/* Ranges of ids that are in use. */
struct spans {
    struct span *of;
    size_t length;
    size_t room;
};

typedef bool take_line(char *line, void *into);

/* Calls `take` for each line of a file. A file that is not a regular file counts as missing.
 * Returns false on a read error, or if `take` fails because memory is exhausted. */
static bool take_each_line(const char *path, take_line *take, void *into)
{
    char line[UN_LINE_MAX];
    bool cut, taken = true;
    un_auto_lines struct un_lines lines;
    if (!un_lines_open(&lines, path))
        return errno == ENOENT || un_lines_is_no_file(errno);
    while (taken && un_lines_next(&lines, line, &cut))
        taken = take(line, into);
    return taken && !lines.errnum;
}

static bool add_span(struct spans *spans, uint64_t start, uint64_t end)
{
    if (spans->length == spans->room) {
        size_t room = spans->room ? 2 * spans->room : 64;
        struct span *of = reallocarray(spans->of, room, sizeof *of);
        if (!of)
            return false;
        spans->of = of;
        spans->room = room;
    }
    spans->of[spans->length++] = (struct span){start, end};
    return true;
}

static bool take_granted(char *line, void *into)
{
    uint64_t start, count;
    const char *at = strchr(line, ':');
    if (at)
        at = un_subid_number(at + 1, ':', UINT32_MAX, &start);
    /* Accept a range that extends past the largest id: newuidmap(1) grants the part that exists. */
    if (!at || !un_subid_number(at, '\0', INT64_MAX, &count))
        return true;
    return add_span(into, start, start + count);
}

/* Raises *into, the lowest free id, above the id in a line of passwd(5) or group(5), unless that id
 * exceeds LAST_USER. */
static bool take_user(char *line, void *into)
{
    uint64_t *behind = into, id;
    const char *at = strchr(line, ':');
    at = at ? strchr(at + 1, ':') : NULL;
    if (at && un_subid_number(at + 1, ':', LAST_USER, &id) && id >= *behind)
        *behind = id + 1;
    return true;
}

/* Iterates over the ranges of ids that this user namespace maps both as uids and as gids: stores
 * the next range in `room`, and advances *at. Returns false when no range is left. */
static bool next_room(const struct un_map *const parents[2], uint32_t *at, struct span *room)
{
    const struct un_map *uids = parents[UN_UID], *gids = parents[UN_GID];
    while (*at < uids->len * gids->len) {
        const struct un_extent *uid = &uids->extent[*at / gids->len];
        const struct un_extent *gid = &gids->extent[*at % gids->len];
        uint64_t uid_end = (uint64_t)uid->inside + uid->count;
        uint64_t gid_end = (uint64_t)gid->inside + gid->count;
        room->start = uid->inside > gid->inside ? uid->inside : gid->inside;
        room->end = uid_end < gid_end ? uid_end : gid_end;
        ++*at;
        if (room->start < room->end)
            return true;
    }
    return false;
}

/* Returns whether this user namespace maps all UN_GRANT_COUNT ids from `first` on, both as uids and
 * as gids. */
static bool range_exists(const struct un_map *const parents[2], uint64_t first)
{
    struct span room;
    uint32_t at = 0;
    while (next_room(parents, &at, &room))
        if (room.start <= first && first + UN_GRANT_COUNT <= room.end)
            return true;
    return false;
}

static int compare_spans(const void *one, const void *other)
{
    const struct span *a = one, *b = other;
    return a->start < b->start ? -1 : a->start > b->start;
}

static void keep_longer(struct span *longest, uint64_t start, uint64_t end)
{
    if (start < end && end - start > longest->end - longest->start)
        *longest = (struct span){start, end};
}

/* Returns the longest range of unused ids that this user namespace maps. */
static struct span longest_gap(const struct un_map *const parents[2], struct spans *taken)
{
    struct span room, longest = {0, 0};
    uint32_t at = 0;
    qsort(taken->of, taken->length, sizeof *taken->of, compare_spans);
    while (next_room(parents, &at, &room)) {
        uint64_t start = room.start;
        for (size_t i = 0; i < taken->length; i++) {
            const struct span *span = &taken->of[i];
            keep_longer(&longest, start, span->start < room.end ? span->start : room.end);
            start = span->end > start ? span->end : start;
        }
        keep_longer(&longest, start, room.end);
    }
    return longest;
}

static bool find_free_range(const struct un_grant_files *files,
                            const struct un_map *const parents[2], struct spans *taken,
                            struct un_range *found)
{
    uint64_t first = FIRST, last = UINT32_MAX, behind = FIRST_USER + 1;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (!take_each_line(files->subid[kind], take_granted, taken))
            return false;
    for (size_t i = 0; i < taken->length; i++) {
        const struct span *span = &taken->of[i];
        if (span->end < END && span->end > first)
            first = span->end;
        if (span->end >= END && span->start < last)
            last = span->start;
    }
    if (first + UN_GRANT_COUNT <= last && range_exists(parents, first)) {
        *found = (struct un_range){(uint32_t)first, UN_GRANT_COUNT};
        return true;
    }
    if (range_exists(parents, FIRST))
        return false;
    /* If this user namespace does not map the ids from 100000 on, as in many containers, choose ids
     * above those of all ordinary users and groups. A missing or unreadable /etc/passwd or
     * /etc/group counts as empty. */
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        take_each_line(files->users[kind], take_user, &behind);
    if (!add_span(taken, 0, behind) || !add_span(taken, last, END))
        return false;
    struct span gap = longest_gap(parents, taken);
    uint64_t count = gap.end - gap.start;
    *found = (struct un_range){(uint32_t)gap.start,
                               (uint32_t)(count < UN_GRANT_COUNT ? count : UN_GRANT_COUNT)};
    return count > 0;
}

bool un_free_ids(const struct un_grant_files *files, const struct un_map *const parents[2],
                 struct un_range *found)
{
    struct spans taken = {NULL, 0, 0};
    bool is_found = find_free_range(files, parents, &taken, found);
    free(taken.of);
    return is_found;
}
