/* Fuzz target: plans id maps for any request with any facts about the caller. Checks that the plan
 * maps only ids that exist in the parent namespace, obeys the kernel's rules for maps, and contains
 * the path of each helper that it needs; and that planning again yields the same plan. */
#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The rest of the fuzzer's input, from which no value has been taken yet. */
struct input {
    const uint8_t *at;
    size_t left;
};

static uint32_t next(struct input *in, size_t bytes)
{
    uint32_t number = 0;
    for (; bytes && in->left; bytes--, in->left--)
        number = number << 8 | *in->at++;
    return number;
}

/* Takes the next id from the input. There are only few different ids, including the lowest and the
 * highest, so that extents often touch or overlap. */
static uint32_t next_id(struct input *in)
{
    uint32_t byte = next(in, 1);
    if (byte < 64)
        return byte;
    return byte < 128 ? UINT32_MAX - (byte - 64) : byte * 1000;
}

static void fill_map(struct input *in, struct un_map *map)
{
    map->len = next(in, 1) % 6;
    for (uint32_t i = 0; i < map->len; i++)
        map->extent[i] = (struct un_extent){next_id(in), next_id(in), next_id(in)};
}

static void fill(struct input *in, struct un_request *request, struct un_facts *facts)
{
    memset(request, 0, sizeof *request);
    memset(facts, 0, sizeof *facts);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        struct un_id_request *id = &request->id[kind];
        struct un_id_facts *of = &facts->id[kind];
        uint32_t bits = next(in, 1);
        id->map_self = bits & 1;
        id->fill = bits >> 1 & 3;
        id->self = next_id(in);
        fill_map(in, &id->more);
        of->own = next_id(in);
        of->helper_state = (int)(bits >> 3) % (UN_HELPER_CAPS_ELSEWHERE + 1);
        strcpy(of->helper, "/usr/bin/newidmap");
        do
            fill_map(in, &of->parent);
        while (of->parent.len == 0 && in->left);
        of->ranges.len = next(in, 1) % 5;
        for (uint32_t i = 0; i < of->ranges.len; i++)
            of->ranges.range[i] = (struct un_range){next_id(in), next_id(in)};
    }
    uint32_t bits = next(in, 2);
    request->setgroups = (int)(bits & 3) % 3;
    request->allow_single_id = bits & 4;
    facts->has_parents = true;
    facts->has_ranges = bits & 8;
    facts->no_new_privs = bits & 16;
    facts->in_bounding_set = bits & 32;
    facts->any_group = bits & 64;
    facts->caps = bits & 128 ? ~0ULL : bits & 256 ? 1ULL << CAP_SETUID : 0;
    facts->user_gid = bits & 512 ? -1 : (int64_t)next_id(in);
    facts->kernel_major = bits & 1024 ? 3 : 6;
    facts->page_size = 4096;
    strcpy(facts->user, bits & 2048 ? "user" : "");
}

static void check_plan(const struct un_plan *plan, const struct un_facts *facts)
{
    struct un_error err;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        const struct un_map *map = &plan->map.of[kind];
        int writer = plan->writer[kind];
        if (writer < UN_WRITER_NONE || writer > UN_WRITER_HELPER)
            abort();
        if ((writer == UN_WRITER_NONE) != (map->len == 0))
            abort();
        if (writer == UN_WRITER_HELPER && !*plan->helper[kind])
            abort();
        if (writer == UN_WRITER_SELF && (map->len != 1 || map->extent[0].count != 1 ||
                                         map->extent[0].outside != facts->id[kind].own))
            abort();
        if (map->len && un_map_check(map, UN_MAP_MAX, facts->page_size, &err))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct un_request request;
    static struct un_facts facts;
    static struct un_plan plan, again;
    struct input in = {data, size};
    struct un_error err, other;
    fill(&in, &request, &facts);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        /* Skip impossible facts: the kernel keeps the maps of the parent namespace valid, and
         * ranges are checked when a file is read. */
        const struct un_map *parent = &facts.id[kind].parent;
        if (!parent->len || un_map_check(parent, UN_MAP_MAX, 4096, &err))
            return 0;
        for (uint32_t i = 0; i < facts.id[kind].ranges.len; i++) {
            const struct un_range *range = &facts.id[kind].ranges.range[i];
            if (!range->count || range->count > UINT32_MAX - range->start)
                return 0;
        }
    }
    memset(&plan, 0, sizeof plan);
    memset(&again, 0, sizeof again);
    memset(&err, 0, sizeof err);
    memset(&other, 0, sizeof other);
    int failed = un_plan_make(&request, &facts, &plan, &err);
    if (failed != un_plan_make(&request, &facts, &again, &other))
        abort();
    if (failed && (!*err.detail || strcmp(err.detail, other.detail) != 0))
        abort();
    if (!failed)
        check_plan(&plan, &facts);
    return 0;
}
