/* Parsing, checking and formatting id maps and their extents. */
#include "base/base.h"

#include <inttypes.h>

/* The id (uid_t)-1, which the kernel rejects in maps. */
#define NO_ID UINT32_MAX

static const char *read_map_id(const char *text, uint32_t *id)
{
    uint64_t number = 0;
    const char *end = un_number_read(text, UINT32_MAX, &number);
    *id = (uint32_t)number;
    return end;
}

/* Returns whether the `count` ids from `first` on are all valid. 4294967295 is not a valid id
 * (map_write() in the kernel). */
static bool extent_fits(uint32_t first, uint32_t count)
{
    return count <= NO_ID - first;
}

static int check_extent(struct un_extent e, struct un_error *err)
{
    if (e.count == 0)
        return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                       "extent %" PRIu32 ":%" PRIu32 ":0 maps no id: the count must be 1 or more",
                       e.inside, e.outside);
    if (!extent_fits(e.inside, e.count) || !extent_fits(e.outside, e.count))
        return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                       "extent %" PRIu32 ":%" PRIu32 ":%" PRIu32
                       " goes past 4294967294, the last id",
                       e.inside, e.outside, e.count);
    return 0;
}

int un_extent_parse(const char *text, struct un_extent *extent, struct un_error *err)
{
    uint32_t field[3];
    const char *at = text;
    for (int i = 0; i < 3 && at; i++) {
        at = read_map_id(at, &field[i]);
        if (at && i < 2)
            at = *at == ':' ? at + 1 : NULL;
    }
    if (!at || *at)
        return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                       "\"%.200s\" is not an extent, inside:outside:count, such as 0:100000:65536",
                       text);
    *extent = (struct un_extent){field[0], field[1], field[2]};
    return check_extent(*extent, err);
}

int un_map_add(struct un_map *map, struct un_extent extent, struct un_error *err)
{
    if (check_extent(extent, err))
        return -1;
    if (map->len == UN_MAP_MAX)
        return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                       "a map can have no more than %d extents", UN_MAP_MAX);
    map->extent[map->len++] = extent;
    return 0;
}

static bool overlap(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count)
{
    return a < (uint64_t)b + b_count && b < (uint64_t)a + a_count;
}

static int check_overlap(struct un_extent a, struct un_extent b, struct un_error *err)
{
    const char *side = NULL;
    if (overlap(a.inside, a.count, b.inside, b.count))
        side = "inside";
    else if (overlap(a.outside, a.count, b.outside, b.count))
        side = "outside";
    if (!side)
        return 0;
    return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                   "extents %" PRIu32 ":%" PRIu32 ":%" PRIu32 " and %" PRIu32 ":%" PRIu32
                   ":%" PRIu32 " overlap %s: an id can be mapped only once",
                   a.inside, a.outside, a.count, b.inside, b.outside, b.count, side);
}

/* Checks the rules whose violation makes the kernel return EINVAL, because this errno does not tell
 * which rule was violated. A map must not be empty, contain an empty extent or an id greater than
 * the largest id, have extents whose ids overlap, inside or outside the user namespace, have too
 * many extents, or have a text of a page or more (user_namespaces(7), "Defining user and group ID
 * mappings"). */
int un_map_check(const struct un_map *map, uint32_t max_extents, size_t page_size,
                 struct un_error *err)
{
    if (map->len == 0)
        return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid", "the map is empty");
    if (map->len > max_extents)
        return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                       "the map has %" PRIu32 " extents; this kernel allows at most %" PRIu32,
                       map->len, max_extents);
    for (uint32_t i = 0; i < map->len; i++) {
        if (check_extent(map->extent[i], err))
            return -1;
        for (uint32_t j = 0; j < i; j++)
            if (check_overlap(map->extent[j], map->extent[i], err))
                return -1;
    }
    char text[UN_MAP_TEXT_MAX];
    size_t length = un_map_format(map, text);
    if (length >= page_size)
        return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                       "the map has %zu bytes as text; the kernel allows less than a page of %zu",
                       length, page_size);
    return 0;
}

static char *write_field(char *at, uint32_t number, char end)
{
    at = un_number_write(at, number);
    *at++ = end;
    return at;
}

size_t un_map_format(const struct un_map *map, char text[UN_MAP_TEXT_MAX])
{
    char *at = text;
    for (uint32_t i = 0; i < map->len; i++) {
        at = write_field(at, map->extent[i].inside, ' ');
        at = write_field(at, map->extent[i].outside, ' ');
        at = write_field(at, map->extent[i].count, '\n');
    }
    *at = '\0';
    return (size_t)(at - text);
}

static const char *skip_blanks(const char *at)
{
    while (*at == ' ' || *at == '\t')
        at++;
    return at;
}

int un_map_parse(const char *text, struct un_map *map, struct un_error *err)
{
    map->len = 0;
    for (const char *at = text; *at;) {
        uint32_t field[3];
        const char *line = at;
        for (int i = 0; i < 3 && at; i++)
            at = read_map_id(skip_blanks(at), &field[i]);
        if (at)
            at = skip_blanks(at);
        if (!at || (*at && *at != '\n'))
            return un_fail(err, UN_STEP_ARGUMENT, 0, "map-invalid",
                           "\"%.*s\" is not a line of a map: expected inside outside count",
                           (int)strcspn(line, "\n"), line);
        if (un_map_add(map, (struct un_extent){field[0], field[1], field[2]}, err))
            return -1;
        if (*at == '\n')
            at++;
    }
    return 0;
}

const struct un_extent *un_map_find(const struct un_map *map, int side, uint32_t id)
{
    for (uint32_t i = 0; i < map->len; i++) {
        const struct un_extent *extent = &map->extent[i];
        if (id - (side == UN_INSIDE ? extent->inside : extent->outside) < extent->count)
            return extent;
    }
    return NULL;
}

uint32_t un_map_run(const struct un_map *map, int side, uint32_t id, uint32_t count, bool *mapped)
{
    uint32_t length = count;
    *mapped = false;
    for (uint32_t i = 0; i < map->len; i++) {
        struct un_extent e = map->extent[i];
        uint32_t first = side == UN_INSIDE ? e.inside : e.outside;
        if (overlap(id, 1, first, e.count)) {
            *mapped = true;
            uint32_t left = e.count - (id - first);
            return left < count ? left : count;
        }
        if (first > id && first - id < length)
            length = first - id;
    }
    return length;
}

/* Returns whether `b` maps each id that `a` maps, and to the same id. */
static bool is_part_of(const struct un_map *a, const struct un_map *b)
{
    for (uint32_t i = 0; i < a->len; i++) {
        struct un_extent left = a->extent[i];
        while (left.count) {
            uint32_t j = 0;
            while (j < b->len &&
                   !(left.inside - b->extent[j].inside < b->extent[j].count &&
                     left.inside - b->extent[j].inside == left.outside - b->extent[j].outside))
                j++;
            if (j == b->len)
                return false;
            uint32_t covered = b->extent[j].count - (left.inside - b->extent[j].inside);
            covered = covered < left.count ? covered : left.count;
            left.inside += covered;
            left.outside += covered;
            left.count -= covered;
        }
    }
    return true;
}

bool un_map_equal(const struct un_map *a, const struct un_map *b)
{
    return is_part_of(a, b) && is_part_of(b, a);
}
