/* Tests of building maps with subordinate id ranges: which extents result, and which ids are left
 * out. */
#include "ranges.h"

enum { MINE = 1000 };

static struct un_request request;
static struct un_facts facts;
static struct un_plan plan;
static struct un_error err;

static void init_granted(int64_t self, int fill)
{
    init_wanted(&request, self, fill);
    init_user(&facts, MINE, MINE);
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        grant(&facts, kind, 100000, 65536);
}

static void set_parent(int kind, const struct un_extent *extents, uint32_t count)
{
    facts.id[kind].parent.len = count;
    memcpy(facts.id[kind].parent.extent, extents, count * sizeof *extents);
}

static void check_uid_map(const char *want)
{
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    check_map_is(&plan.map.of[UN_UID], want);
}

static void check_refused(const char *cause, const char *says)
{
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_TEXT(err.cause, cause);
    CHECK_HAS(err.detail, says);
}

static void ranges_are_packed_around_the_own_id(void)
{
    static const struct {
        int64_t self;
        const char *map;
    } cases[] = {
        {0, "0 1000 1\n1 100000 65536\n"},
        {1, "1 1000 1\n0 100000 1\n2 100001 65535\n"},
        {MINE, "1000 1000 1\n0 100000 1000\n1001 101000 64536\n"},
        {65536, "65536 1000 1\n0 100000 65536\n"},
        {65535, "65535 1000 1\n0 100000 65535\n65536 165535 1\n"},
        {4294967294, "4294967294 1000 1\n0 100000 65536\n"},
        {-1, "0 100000 65536\n"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_granted(cases[i].self, UN_FILL_PACKED);
        check_uid_map(cases[i].map);
        CHECK_INT(plan.writer[UN_UID], UN_WRITER_HELPER);
        CHECK_INT(plan.writer[UN_GID], UN_WRITER_HELPER);
        CHECK_TEXT(plan.helper[UN_UID], "/bin/newuidmap");
        CHECK_TEXT(plan.helper[UN_GID], "/bin/newgidmap");
        CHECK_HAS(plan.reason[UN_UID], "/etc/subuid");
        CHECK_HAS(plan.reason[UN_GID], "/etc/subgid");
        CHECK_INT(plan.become[UN_UID], cases[i].self < 0 ? 0 : cases[i].self);
        CHECK_INT(plan.drop_groups, cases[i].self < 0);
        CHECK_INT(plan.setgroups, UN_SETGROUPS_AUTO);
        CHECK(!un_plan_writes_itself(&plan));
    }
}

static void all_ranges_are_used_and_no_id_is_dropped(void)
{
    init_granted(0, UN_FILL_PACKED);
    grant(&facts, UN_UID, 300000, 10);
    grant(&facts, UN_UID, 200000, 1);
    check_uid_map("0 1000 1\n1 100000 65536\n65537 300000 10\n65547 200000 1\n");
    check_map_is(&plan.map.of[UN_GID], "0 1000 1\n1 100000 65536\n");
}

static void ranges_that_overlap_are_mapped_once(void)
{
    init_granted(0, UN_FILL_PACKED);
    grant(&facts, UN_UID, 165000, 1000);
    grant(&facts, UN_UID, 100000, 65536);
    grant(&facts, UN_UID, 99999, 2);
    check_uid_map("0 1000 1\n1 100000 65536\n65537 165536 464\n66001 99999 1\n");
}

static void the_own_id_is_mapped_once_if_a_range_has_it(void)
{
    init_wanted(&request, 0, UN_FILL_PACKED);
    init_user(&facts, 100005, MINE);
    grant(&facts, UN_UID, 100000, 10);
    grant(&facts, UN_GID, 200000, 10);
    check_uid_map("0 100005 1\n1 100000 5\n6 100006 4\n");
    init_wanted(&request, 100005, UN_FILL_IDENTITY);
    check_uid_map("100005 100005 1\n100000 100000 5\n100006 100006 4\n");
}

static void identity_maps_each_id_to_itself(void)
{
    init_granted(0, UN_FILL_IDENTITY);
    grant(&facts, UN_UID, 120000, 100000);
    check_uid_map("0 1000 1\n100000 100000 65536\n165536 165536 54464\n");

    /* The caller's own id is mapped to the id 100000, so the id 100000 of the subordinate range
     * can't be mapped to itself. */
    init_granted(100000, UN_FILL_IDENTITY);
    check_refused("map-invalid", "overlap inside");
}

static void named_extents_come_first_and_ranges_fill_what_is_left(void)
{
    init_granted(0, UN_FILL_PACKED);
    want_extent(&request, UN_UID, (struct un_extent){10, 100000, 5});
    check_uid_map("0 1000 1\n10 100000 5\n1 100005 9\n15 100014 65522\n");

    /* If extents of a request overlap, composing fails; they are not adjusted. */
    init_granted(0, UN_FILL_NONE);
    want_extent(&request, UN_UID, (struct un_extent){0, 100000, 5});
    check_refused("map-invalid", "0:1000:1 and 0:100000:5 overlap inside");
}

static void each_kind_has_its_own_ranges(void)
{
    init_wanted(&request, 0, UN_FILL_PACKED);
    init_user(&facts, MINE, 500);
    facts.user_gid = 500;
    grant(&facts, UN_UID, 100000, 10);
    grant(&facts, UN_GID, 200000, 20);
    check_uid_map("0 1000 1\n1 100000 10\n");
    check_map_is(&plan.map.of[UN_GID], "0 500 1\n1 200000 20\n");

    init_wanted(&request, 0, UN_FILL_NONE);
    request.id[UN_UID].fill = UN_FILL_PACKED;
    check_uid_map("0 1000 1\n1 100000 10\n");
    check_map_is(&plan.map.of[UN_GID], "0 500 1\n");
    CHECK_INT(plan.writer[UN_GID], UN_WRITER_SELF);
    CHECK_INT(plan.setgroups, UN_SETGROUPS_DENY);
}

/* Checks that subordinate ranges are clipped to the ids that the current user namespace maps, with
 * the maps that `unshare -r`, Docker's userns-remap and Kubernetes' hostUsers: false create. */
static void ranges_are_clipped_to_what_exists_here(void)
{
    static const struct un_extent container[] = {{0, 231072, 65536}};
    init_granted(0, UN_FILL_PACKED);
    grant(&facts, UN_UID, 60000, 10000);
    set_parent(UN_UID, container, 1);
    check_uid_map("0 1000 1\n1 60000 5536\n");
    CHECK_INT(plan.clipped[UN_UID].len, 2);
    CHECK_INT(plan.clipped[UN_UID].range[0].start, 100000);
    CHECK_INT(plan.clipped[UN_UID].range[0].count, 65536);
    CHECK_INT(plan.clipped[UN_UID].range[1].start, 65536);
    CHECK_INT(plan.clipped[UN_UID].range[1].count, 4464);
    CHECK_INT(plan.clipped[UN_GID].len, 0);
}

static void ranges_are_split_along_the_parent_map(void)
{
    static const struct un_extent parent[] = {
        {100010, 5000, 10}, {0, 200000, 2000}, {100000, 9000, 10}, {100030, 7000, 100000}};
    init_granted(0, UN_FILL_PACKED);
    set_parent(UN_UID, parent, COUNT(parent));
    check_uid_map("0 1000 1\n1 100000 10\n11 100010 10\n21 100030 65506\n");
    CHECK_INT(plan.clipped[UN_UID].len, 1);
    CHECK_INT(plan.clipped[UN_UID].range[0].start, 100020);
    CHECK_INT(plan.clipped[UN_UID].range[0].count, 10);
}

static void a_range_outside_the_namespace_is_a_cause(void)
{
    static const struct un_extent container[] = {{0, 231072, 65536}};
    init_granted(0, UN_FILL_PACKED);
    set_parent(UN_UID, container, 1);
    check_refused("range-outside-parent", "does not have the subordinate uids 100000-165535");

    init_granted(0, UN_FILL_PACKED);
    set_parent(UN_GID, container, 1);
    check_refused("range-outside-parent", "does not have the subordinate gids 100000-165535");
}

static void all_maps_every_id_of_the_parent_to_itself(void)
{
    static const struct un_extent parent[] = {{0, 1000, 1}, {1, 100000, 65536}};
    init_wanted(&request, -1, UN_FILL_ALL);
    init_user(&facts, 0, 0);
    facts.caps = UINT64_MAX;
    set_parent(UN_UID, parent, COUNT(parent));
    set_parent(UN_GID, parent, COUNT(parent));
    check_uid_map("0 0 1\n1 1 65536\n");
    CHECK_INT(plan.writer[UN_UID], UN_WRITER_PARENT);
    /* In the initial namespace all ids exist; 4294967295 is not an id. */
    init_user(&facts, 0, 0);
    facts.caps = UINT64_MAX;
    check_uid_map("0 0 4294967295\n");
}

static void ranges_of_other_users_are_not_used(void)
{
    init_wanted(&request, 0, UN_FILL_PACKED);
    init_user(&facts, MINE, MINE);
    check_refused("no-subordinate-range", "/etc/subuid grants no uid to user anna");

    grant(&facts, UN_UID, 100000, 10);
    check_refused("no-subordinate-range", "/etc/subgid grants no gid to user anna");

    facts.user[0] = '\0';
    facts.id[UN_UID].ranges.len = 0;
    check_refused("no-passwd-entry", "grants no uid to uid 1000, which has no name in /etc/passwd");

    strcpy(facts.user, "anna");
    strcpy(facts.notices.text[0], "/etc/subuid, line 3 is skipped: the count is 0");
    facts.notices.len = 1;
    check_refused("no-subordinate-range", "line 3 is skipped: the count is 0");
}

static void more_than_a_map_holds_is_refused(void)
{
    init_wanted(&request, 0, UN_FILL_PACKED);
    init_user(&facts, MINE, MINE);
    facts.page_size = 65536;
    for (uint32_t i = 0; i < UN_MAP_MAX - 1; i++)
        grant(&facts, UN_UID, 100000 + 2 * i, 1);
    grant(&facts, UN_GID, 100000, 1);
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK_INT(plan.map.of[UN_UID].len, UN_MAP_MAX);

    grant(&facts, UN_UID, 200000, 1);
    check_refused("map-invalid", "no more than 340 extents");

    facts.id[UN_UID].ranges.len = UN_MAP_MAX - 1;
    /* uid_map accepts less than a page of text. Of ranges that do not fit, only the first are
     * mapped. */
    facts.page_size = 4096;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK(plan.map.of[UN_UID].len > 200 && plan.map.of[UN_UID].len < UN_MAP_MAX - 1);
}

/* Checks a subordinate range that the parent map splits into more extents than fit a page. Only the
 * first extents are mapped. */
static void a_range_is_cut_to_the_free_ids(void)
{
    enum { EXTENTS = 300, FIRST = 2000000000 };
    struct un_map *parent = &facts.id[UN_UID].parent;
    init_wanted(&request, -1, UN_FILL_IDENTITY);
    init_user(&facts, MINE, MINE);
    for (uint32_t i = 0; i < EXTENTS; i++)
        parent->extent[i] = (struct un_extent){FIRST + 2 * i, FIRST + 2 * i, 1};
    parent->len = EXTENTS;
    grant(&facts, UN_UID, FIRST, 2 * EXTENTS);
    grant(&facts, UN_GID, 100000, 1);
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK(plan.map.of[UN_UID].len > 100 && plan.map.of[UN_UID].len < EXTENTS);
}

int main(void)
{
    ranges_are_packed_around_the_own_id();
    all_ranges_are_used_and_no_id_is_dropped();
    ranges_that_overlap_are_mapped_once();
    the_own_id_is_mapped_once_if_a_range_has_it();
    identity_maps_each_id_to_itself();
    named_extents_come_first_and_ranges_fill_what_is_left();
    each_kind_has_its_own_ranges();
    ranges_are_clipped_to_what_exists_here();
    ranges_are_split_along_the_parent_map();
    a_range_outside_the_namespace_is_a_cause();
    all_maps_every_id_of_the_parent_to_itself();
    ranges_of_other_users_are_not_used();
    more_than_a_map_holds_is_refused();
    a_range_is_cut_to_the_free_ids();
    return 0;
}
