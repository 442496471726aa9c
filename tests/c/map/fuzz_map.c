/* Fuzz target: parses any text as a map and as an extent. Checks that formatting a valid map and
 * parsing the result yields the same map, and that each of its ids is found. */
#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_extent(const struct un_map *map, uint32_t i)
{
    const struct un_extent *extent = &map->extent[i];
    bool mapped = false;
    const struct un_extent *inside = un_map_find(map, UN_INSIDE, extent->inside);
    const struct un_extent *outside = un_map_find(map, UN_OUTSIDE, extent->outside);
    if (inside != extent || outside != extent)
        abort();
    if (un_map_run(map, UN_INSIDE, extent->inside, extent->count, &mapped) != extent->count ||
        !mapped)
        abort();
}

static void check_map(const char *text)
{
    static struct un_map map, again;
    static char formatted[UN_MAP_TEXT_MAX];
    struct un_error err;
    if (un_map_parse(text, &map, &err))
        return;
    if (un_map_check(&map, UN_MAP_MAX, 4096, &err))
        return;
    un_map_format(&map, formatted);
    if (un_map_parse(formatted, &again, &err) || !un_map_equal(&map, &again))
        abort();
    for (uint32_t i = 0; i < map.len; i++)
        check_extent(&map, i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct un_extent extent;
    struct un_error err;
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    un_extent_parse(text, &extent, &err);
    check_map(text);
    free(text);
    return 0;
}
