#include "base/base.h"
#include "map/map.h"

#include <inttypes.h>

/* Adds the caller's own id to the map. Fails if the parent namespace does not map the id. Without
 * the parent's map in `facts`, leaves this check to the kernel. */
static int add_self(int kind, const struct un_id_request *want, const struct un_facts *facts,
                    struct un_map *map, struct un_error *err)
{
    const struct un_id_facts *id = &facts->id[kind];
    if (!want->map_self)
        return 0;
    if (facts->has_parents && !un_map_find(&id->parent, UN_INSIDE, id->own))
        return un_fail(err, UN_STEP_PLAN, 0, "caller-id-unmapped",
                       "the caller's %s %" PRIu32 " is not mapped in the current user namespace",
                       un_kinds[kind].name, id->own);
    return un_map_add(map, (struct un_extent){want->self, id->own, 1}, err);
}

/* Adds an extent of the request. Splits it where the parent's map is split: the kernel requires
 * that each extent lies within a single extent of the parent's map (map_id_range_down()). */
static int add_named(int kind, struct un_extent extent, const struct un_map *parent,
                     struct un_map *map, struct un_error *err)
{
    char text[UN_IDS_TEXT_MAX];
    while (extent.count) {
        bool exists;
        uint32_t length = un_map_run(parent, UN_INSIDE, extent.outside, extent.count, &exists);
        if (!exists)
            return un_fail(err, UN_STEP_PLAN, 0, "outside-parent-map",
                           "the current user namespace does not have %s",
                           un_ids_text(kind, extent.outside, length, text));
        if (un_map_add(map, (struct un_extent){extent.inside, extent.outside, length}, err))
            return -1;
        extent.inside += length;
        extent.outside += length;
        extent.count -= length;
    }
    return 0;
}

/* Maps a range of ids to the lowest ids of the new user namespace that are still free and not below
 * *next. */
static int place(struct un_range ids, uint32_t *next, struct un_map *map, struct un_error *err)
{
    while (ids.count) {
        bool taken;
        uint32_t length = un_map_run(map, UN_INSIDE, *next, ids.count, &taken);
        if (!taken) {
            if (un_map_add(map, (struct un_extent){*next, ids.start, length}, err))
                return -1;
            ids.start += length;
            ids.count -= length;
        }
        *next += length;
    }
    return 0;
}

static int clip(struct un_range ids, struct un_ranges *clipped, struct un_error *err)
{
    if (clipped->len == UN_MAP_MAX)
        return un_fail(err, UN_STEP_PLAN, 0, "map-invalid",
                       "more than %d ranges lie outside the current user namespace", UN_MAP_MAX);
    clipped->range[clipped->len++] = ids;
    return 0;
}

/* Adds the ids of a range to the map if the parent namespace maps them and the new map does not
 * contain them yet. Adds to `clipped` the ids that the parent namespace does not map. */
static int add_range(struct un_range ids, int fill, uint32_t *next, const struct un_map *parent,
                     struct un_map *map, struct un_ranges *clipped, struct un_error *err)
{
    while (ids.count) {
        bool exists, taken;
        uint32_t length = un_map_run(parent, UN_INSIDE, ids.start, ids.count, &exists);
        length = un_map_run(map, UN_OUTSIDE, ids.start, length, &taken);
        struct un_range part = {ids.start, length};
        int failed = 0;
        if (!exists)
            failed = clip(part, clipped, err);
        else if (!taken && fill == UN_FILL_PACKED)
            failed = place(part, next, map, err);
        else if (!taken)
            failed = un_map_add(map, (struct un_extent){part.start, part.start, length}, err);
        if (failed)
            return -1;
        ids.start += length;
        ids.count -= length;
    }
    return 0;
}

static int no_range(int kind, const struct un_facts *facts, struct un_error *err)
{
    const char *file = un_kinds[kind].subid;
    const char *notice = facts->notices.len ? facts->notices.text[0] : "";
    const char *separator = *notice ? "; " : "";
    /* If the uid has no name, report the missing name instead of the missing grant: the helpers
     * reject a uid without a name even if it has a grant. */
    if (!facts->user[0])
        return un_fail(err, UN_STEP_PLAN, 0, "no-passwd-entry",
                       "%s grants no %s to uid %" PRIu32 ", which has no name in /etc/passwd%s%s",
                       file, un_kinds[kind].name, facts->id[UN_UID].own, separator, notice);
    return un_fail(err, UN_STEP_PLAN, 0, "no-subordinate-range", "%s grants no %s to user %s%s%s",
                   file, un_kinds[kind].name, facts->user, separator, notice);
}

/* Returns whether the text of a map is shorter than a page, as the kernel requires. For fewer than
 * 100 extents this is always true. */
static bool has_room(const struct un_map *map, size_t page_size)
{
    enum { SURE = 100 };
    char text[UN_MAP_TEXT_MAX];
    return map->len < SURE || un_map_format(map, text) < page_size;
}

static int add_ranges(int kind, int fill, const struct un_facts *facts, struct un_map *map,
                      struct un_ranges *clipped, struct un_error *err)
{
    const struct un_id_facts *id = &facts->id[kind];
    uint32_t before = map->len, next = 0;
    if (id->ranges.len == 0)
        return no_range(kind, facts, err);
    for (uint32_t i = 0; i < id->ranges.len; i++) {
        if (add_range(id->ranges.range[i], fill, &next, &id->parent, map, clipped, err))
            return -1;
        if (has_room(map, facts->page_size))
            continue;
        while (map->len > before && !has_room(map, facts->page_size))
            map->len--;
        break;
    }
    char text[UN_IDS_TEXT_MAX];
    const struct un_range *absent = &clipped->range[0];
    if (map->len == before && clipped->len)
        return un_fail(err, UN_STEP_PLAN, 0, "range-outside-parent",
                       "the current user namespace does not have the subordinate %s",
                       un_ids_text(kind, absent->start, absent->count, text));
    return 0;
}

static int add_all_of_parent(const struct un_map *parent, struct un_map *map, struct un_error *err)
{
    struct un_ranges none = {.len = 0};
    uint32_t next = 0;
    for (uint32_t i = 0; i < parent->len; i++) {
        struct un_range ids = {parent->extent[i].inside, parent->extent[i].count};
        if (add_range(ids, UN_FILL_IDENTITY, &next, parent, map, &none, err))
            return -1;
    }
    return 0;
}

/* Adds the caller's own id and the extents of the request first, so that they take precedence over
 * the ids that the request's `fill` selects. */
int un_compose(int kind, const struct un_request *request, const struct un_facts *facts,
               struct un_map *map, struct un_ranges *clipped, struct un_error *err)
{
    const struct un_id_request *want = &request->id[kind];
    const struct un_id_facts *id = &facts->id[kind];

    map->len = clipped->len = 0;
    if (add_self(kind, want, facts, map, err))
        return -1;
    for (uint32_t i = 0; i < want->more.len; i++)
        if (add_named(kind, want->more.extent[i], &id->parent, map, err))
            return -1;
    if (want->fill == UN_FILL_ALL)
        return add_all_of_parent(&id->parent, map, err);
    if (want->fill != UN_FILL_NONE)
        return add_ranges(kind, want->fill, facts, map, clipped, err);
    return 0;
}
