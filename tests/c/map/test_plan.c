/* Tests of planning id maps from a request and facts about the caller: the maps, the processes that
 * write them, and errors. */
#include "check.h"

#include <linux/capability.h>

static struct un_request request;
static struct un_facts facts;
static struct un_plan plan;
static struct un_error err;

#define CAP(number) (1ULL << (number))
#define ROOT_CAPS (CAP(CAP_SETUID) | CAP(CAP_SETGID) | CAP(CAP_SETFCAP))

enum { MINE_UID = 1000, MINE_GID = 1001 };

/* Fills in facts about a caller with the ids `uid` and `gid` and the capabilities `caps`, on a
 * current kernel, in the initial user namespace, which maps all ids. */
static void init_facts(struct un_facts *facts, uint32_t uid, uint32_t gid, uint64_t caps)
{
    const struct un_extent all = {0, 0, UINT32_MAX};
    memset(facts, 0, sizeof *facts);
    facts->id[UN_UID].own = uid;
    facts->id[UN_GID].own = gid;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        facts->id[kind].parent.len = 1;
        facts->id[kind].parent.extent[0] = all;
    }
    facts->caps = caps;
    facts->has_parents = true;
    facts->kernel_major = 6;
    facts->kernel_minor = 1;
    facts->page_size = 4096;
}

static void init_request(struct un_request *request, int64_t uid, int64_t gid)
{
    memset(request, 0, sizeof *request);
    request->id[UN_UID].map_self = uid >= 0;
    request->id[UN_UID].self = (uint32_t)uid;
    request->id[UN_GID].map_self = gid >= 0;
    request->id[UN_GID].self = (uint32_t)gid;
}

static void want(struct un_request *request, int kind, uint32_t inside, uint32_t outside,
                 uint32_t count)
{
    CHECK_OK(un_map_add(&request->id[kind].more, (struct un_extent){inside, outside, count}, &err),
             &err);
}

static void check_map(const struct un_map *map, const char *want_text)
{
    static char text[UN_MAP_TEXT_MAX];
    un_map_format(map, text);
    CHECK_TEXT(text, want_text);
}

static void the_process_writes_its_own_single_id(void)
{
    static const struct {
        int64_t uid, gid;
        const char *uid_map, *gid_map;
    } cases[] = {
        {0, 0, "0 1000 1\n", "0 1001 1\n"},
        {MINE_UID, MINE_GID, "1000 1000 1\n", "1001 1001 1\n"},
        {4294967294, 7, "4294967294 1000 1\n", "7 1001 1\n"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_request(&request, cases[i].uid, cases[i].gid);
        init_facts(&facts, MINE_UID, MINE_GID, 0);
        CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
        check_map(&plan.map.of[UN_UID], cases[i].uid_map);
        check_map(&plan.map.of[UN_GID], cases[i].gid_map);
        CHECK_INT(plan.writer[UN_UID], UN_WRITER_SELF);
        CHECK_INT(plan.writer[UN_GID], UN_WRITER_SELF);
        CHECK(un_plan_writes_itself(&plan));
        CHECK_INT(plan.setgroups, UN_SETGROUPS_DENY);
        CHECK_INT(plan.become[UN_UID], cases[i].uid);
        CHECK_INT(plan.become[UN_GID], cases[i].gid);
        CHECK(!plan.drop_groups);
    }
}

static void an_empty_request_has_no_writer(void)
{
    init_request(&request, -1, -1);
    init_facts(&facts, MINE_UID, MINE_GID, 0);
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        CHECK_INT(plan.map.of[kind].len, 0);
        CHECK_INT(plan.writer[kind], UN_WRITER_NONE);
        CHECK_TEXT(un_writer_name(plan.writer[kind]), "none");
        CHECK_INT(plan.become[kind], -1);
    }
    CHECK(un_plan_writes_itself(&plan));
    CHECK_INT(plan.setgroups, UN_SETGROUPS_AUTO);
    CHECK(!plan.drop_groups);
}

/* Fills in a request for the caller's own uid and gid, and for an additional extent of uids and of
 * gids. */
static void make_wide_request(struct un_request *request)
{
    init_request(request, 0, 0);
    want(request, UN_UID, 1, 100000, 65536);
    want(request, UN_GID, 1, 200000, 65536);
}

static void a_parent_with_capabilities_writes_many_ids(void)
{
    make_wide_request(&request);
    init_facts(&facts, MINE_UID, MINE_GID, CAP(CAP_SETUID) | CAP(CAP_SETGID));
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    check_map(&plan.map.of[UN_UID], "0 1000 1\n1 100000 65536\n");
    check_map(&plan.map.of[UN_GID], "0 1001 1\n1 200000 65536\n");
    CHECK_INT(plan.writer[UN_UID], UN_WRITER_PARENT);
    CHECK_INT(plan.writer[UN_GID], UN_WRITER_PARENT);
    CHECK_TEXT(un_writer_name(UN_WRITER_PARENT), "parent");
    CHECK_HAS(plan.reason[UN_UID], "CAP_SETUID");
    CHECK_HAS(plan.reason[UN_GID], "CAP_SETGID");
    CHECK(!un_plan_writes_itself(&plan));
    CHECK_INT(plan.setgroups, UN_SETGROUPS_AUTO);
    CHECK(!plan.drop_groups);
}

static void each_capability_counts_for_its_own_kind_only(void)
{
    static const uint64_t too_few[] = {0, CAP(CAP_SETUID), CAP(CAP_SETGID), CAP(CAP_SYS_ADMIN)};
    for (size_t i = 0; i < COUNT(too_few); i++) {
        make_wide_request(&request);
        init_facts(&facts, MINE_UID, MINE_GID, too_few[i]);
        CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
        CHECK_INT(err.step, UN_STEP_PLAN);
        CHECK(un_cause_find(err.cause, &(struct un_cause){0}));
    }
}

static void mapping_the_parents_root_takes_setfcap_since_5_12(void)
{
    static const struct {
        uint32_t uid;
        uint64_t caps;
        uint32_t major, minor;
        bool planned;
    } cases[] = {
        {0, ROOT_CAPS, 6, 1, true},
        {0, CAP(CAP_SETUID) | CAP(CAP_SETGID), 5, 12, false},
        {0, CAP(CAP_SETUID) | CAP(CAP_SETGID), 6, 1, false},
        {0, CAP(CAP_SETUID) | CAP(CAP_SETGID), 5, 11, true},
        {0, CAP(CAP_SETUID) | CAP(CAP_SETGID), 4, 20, true},
        {0, CAP(CAP_SETFCAP), 6, 1, true},
        /* CAP_SETFCAP is needed only to map uid 0 of the parent namespace. */
        {0, 0, 6, 1, false},
        /* The caller is not uid 0 of the parent namespace, so its own id is mapped without
         * CAP_SETFCAP. */
        {MINE_UID, 0, 6, 1, true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_request(&request, 0, 0);
        init_facts(&facts, cases[i].uid, MINE_GID, cases[i].caps);
        facts.kernel_major = cases[i].major;
        facts.kernel_minor = cases[i].minor;
        int result = un_plan_make(&request, &facts, &plan, &err);
        CHECK_INT(result, cases[i].planned ? 0 : -1);
        if (!cases[i].planned)
            CHECK_TEXT(err.cause, "needs-setfcap");
    }
}

static void a_range_that_has_root_in_it_takes_setfcap_too(void)
{
    init_request(&request, -1, -1);
    want(&request, UN_UID, 0, 0, 1000);
    init_facts(&facts, 0, 0, CAP(CAP_SETUID));
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_TEXT(err.cause, "needs-setfcap");

    /* CAP_SETFCAP is needed only for uid 0. Mapping gid 0 needs only CAP_SETGID. */
    init_request(&request, -1, -1);
    want(&request, UN_GID, 0, 0, 1000);
    init_facts(&facts, 0, 0, CAP(CAP_SETGID));
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK_INT(plan.writer[UN_GID], UN_WRITER_PARENT);
}

static void an_id_that_does_not_exist_here_can_not_be_mapped(void)
{
    init_request(&request, 0, 0);
    init_facts(&facts, 65534, 65534, 0);
    facts.id[UN_GID].parent.extent[0].count = 1000;
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_TEXT(err.cause, "caller-id-unmapped");
    CHECK_HAS(err.detail, "gid 65534");

    make_wide_request(&request);
    init_facts(&facts, MINE_UID, MINE_GID, ROOT_CAPS);
    facts.id[UN_UID].parent.extent[0].count = 120000;
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_TEXT(err.cause, "outside-parent-map");
    CHECK_HAS(err.detail, "120000");
}

/* Checks which requests need the maps of the parent namespace. These maps are read only if needed,
 * because reading them takes longer than all other steps of mapping only the caller's own ids. */
static void the_own_ids_are_mapped_in_any_namespace(void)
{
    static const struct {
        uint32_t uid, gid;
        uint64_t caps;
        bool needs;
    } cases[] = {
        {MINE_UID, MINE_GID, 0, false},
        {MINE_UID, 0, 0, false},
        {0, 0, ROOT_CAPS, false},
        /* A map of uid 0 needs the maps of the parent namespace: the kernel version, which is read
         * together with them, decides whether uid 0 may be mapped. */
        {0, 0, CAP(CAP_SETUID), true},
        /* 65534 may be an id, or the overflow id that the kernel shows for all unmapped ids, so the
         * maps are needed. */
        {65534, MINE_GID, 0, true},
        {MINE_UID, 65534, 0, true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_request(&request, 0, 0);
        init_facts(&facts, cases[i].uid, cases[i].gid, cases[i].caps);
        CHECK_INT(un_plan_needs_parents(&request, &facts), cases[i].needs);
        request.id[UN_GID].fill = UN_FILL_PACKED;
        CHECK(un_plan_needs_parents(&request, &facts));
        init_request(&request, -1, -1);
        CHECK(!un_plan_needs_parents(&request, &facts));
        want(&request, UN_UID, 0, 1, 1);
        CHECK(un_plan_needs_parents(&request, &facts));
    }
    init_request(&request, 0, 5);
    init_facts(&facts, MINE_UID, MINE_GID, 0);
    facts.has_parents = false;
    facts.id[UN_UID].parent.len = facts.id[UN_GID].parent.len = facts.kernel_major = 0;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    check_map(&plan.map.of[UN_UID], "0 1000 1\n");
    check_map(&plan.map.of[UN_GID], "5 1001 1\n");
}

/* Checks that extents are split: the kernel accepts an extent only if a single extent of the
 * parent's map contains it. Otherwise writing the map fails with EPERM. */
static void extents_are_split_along_the_parent_map(void)
{
    init_request(&request, -1, -1);
    want(&request, UN_UID, 100, 5, 30);
    init_facts(&facts, 0, 0, ROOT_CAPS);
    /* In this namespace, the ids 0 to 9, 10 to 29 and 30 to 39 exist. They are mapped to three
     * ranges of the parent namespace that are not adjacent. */
    facts.id[UN_UID].parent.len = 3;
    facts.id[UN_UID].parent.extent[0] = (struct un_extent){10, 1010, 20};
    facts.id[UN_UID].parent.extent[1] = (struct un_extent){0, 2000, 10};
    facts.id[UN_UID].parent.extent[2] = (struct un_extent){30, 5000, 10};
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    check_map(&plan.map.of[UN_UID], "100 5 5\n105 10 20\n125 30 5\n");
}

static void limits_are_those_of_the_kernel_and_its_page(void)
{
    static const struct {
        uint32_t extents;
        uint32_t major, minor;
        size_t page;
        const char *says; /* expected part of the error's detail; NULL if the map is valid */
    } cases[] = {
        {5, 4, 14, 4096, NULL},
        {6, 4, 14, 4096, "this kernel allows at most 5"},
        {6, 3, 10, 4096, "this kernel allows at most 5"},
        {6, 4, 15, 4096, NULL},
        {170, 6, 1, 4096, NULL},
        {171, 6, 1, 4096, "less than a page of 4096"},
        {340, 6, 1, 65536, NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_request(&request, -1, -1);
        for (uint32_t n = 0; n < cases[i].extents; n++)
            want(&request, UN_UID, 4000000000 + n, 4100000000 + n, 1);
        init_facts(&facts, MINE_UID, MINE_GID, ROOT_CAPS);
        facts.kernel_major = cases[i].major;
        facts.kernel_minor = cases[i].minor;
        facts.page_size = cases[i].page;
        CHECK_INT(un_plan_make(&request, &facts, &plan, &err), cases[i].says ? -1 : 0);
        if (cases[i].says) {
            CHECK_HAS(err.detail, cases[i].says);
            CHECK_TEXT(err.cause, "map-invalid");
        }
    }
}

static void overlaps_are_found_in_the_whole_request(void)
{
    init_facts(&facts, MINE_UID, MINE_GID, ROOT_CAPS);

    init_request(&request, 0, 0);
    want(&request, UN_UID, 0, 100000, 10);
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_HAS(err.detail, "overlap inside");

    init_request(&request, 0, 0);
    want(&request, UN_GID, 1, 1000, 10);
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_HAS(err.detail, "overlap outside");
}

static void setgroups_stays_allowed_only_with_cap_setgid(void)
{
    static const struct {
        int policy;
        uint64_t caps;
        int writer;  /* expected writer of the gid map; -1 if planning must fail */
        int written; /* expected content of /proc/PID/setgroups */
    } cases[] = {
        {UN_SETGROUPS_AUTO, 0, UN_WRITER_SELF, UN_SETGROUPS_DENY},
        {UN_SETGROUPS_DENY, 0, UN_WRITER_SELF, UN_SETGROUPS_DENY},
        {UN_SETGROUPS_ALLOW, 0, -1, 0},
        {UN_SETGROUPS_AUTO, CAP(CAP_SETGID), UN_WRITER_SELF, UN_SETGROUPS_DENY},
        {UN_SETGROUPS_ALLOW, CAP(CAP_SETGID), UN_WRITER_PARENT, UN_SETGROUPS_ALLOW},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_request(&request, 0, 0);
        request.setgroups = cases[i].policy;
        init_facts(&facts, MINE_UID, MINE_GID, cases[i].caps);
        CHECK_INT(un_plan_make(&request, &facts, &plan, &err), cases[i].writer < 0 ? -1 : 0);
        if (cases[i].writer < 0) {
            CHECK_TEXT(err.cause, "setgroups-order");
            continue;
        }
        CHECK_INT(plan.writer[UN_GID], cases[i].writer);
        CHECK_INT(plan.setgroups, cases[i].written);
    }
}

static void the_id_inside_is_the_own_id_or_root(void)
{
    static const struct {
        struct un_extent uid, gid;
        int policy;
        int64_t uid_inside, gid_inside;
        bool drop_groups;
    } cases[] = {
        /* The extent contains the caller's own id, so the child gets the id to which the caller's
         * id is mapped. */
        {{0, 0, 2000}, {500, 1000, 10}, UN_SETGROUPS_AUTO, 1000, 501, false},
        /* The caller's own id is not mapped, so the child switches to id 0 of the namespace. */
        {{0, 100000, 10}, {0, 100000, 10}, UN_SETGROUPS_AUTO, 0, 0, true},
        {{0, 100000, 10}, {0, 100000, 10}, UN_SETGROUPS_ALLOW, 0, 0, true},
        /* The child can't drop its supplementary groups if setgroups(2) is denied. */
        {{0, 100000, 10}, {0, 100000, 10}, UN_SETGROUPS_DENY, 0, 0, false},
        /* Neither the caller's own id nor 0 is mapped, so the child does not switch ids. */
        {{5, 100000, 10}, {5, 100000, 10}, UN_SETGROUPS_AUTO, -1, -1, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_request(&request, -1, -1);
        request.setgroups = cases[i].policy;
        want(&request, UN_UID, cases[i].uid.inside, cases[i].uid.outside, cases[i].uid.count);
        want(&request, UN_GID, cases[i].gid.inside, cases[i].gid.outside, cases[i].gid.count);
        init_facts(&facts, MINE_UID, MINE_GID, ROOT_CAPS);
        CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
        CHECK_INT(plan.become[UN_UID], cases[i].uid_inside);
        CHECK_INT(plan.become[UN_GID], cases[i].gid_inside);
        CHECK_INT(plan.drop_groups, cases[i].drop_groups);
    }
}

static void the_plan_for_this_process_can_be_made_from_its_facts(void)
{
    CHECK_OK(un_facts_read(&facts, &err), &err);
    CHECK_OK(un_facts_read_parents(&facts, &err), &err);
    CHECK(facts.kernel_major >= 3);
    CHECK(facts.page_size >= 4096);
    CHECK(un_map_find(&facts.id[UN_UID].parent, UN_INSIDE, facts.id[UN_UID].own));

    static struct un_plan first, second;
    init_request(&request, facts.id[UN_UID].own, facts.id[UN_GID].own);
    CHECK_OK(un_plan_make(&request, &facts, &first, &err), &err);
    CHECK_OK(un_plan_make(&request, &facts, &second, &err), &err);
    CHECK_INT(first.map.of[UN_UID].len, 1);
    CHECK_INT(first.map.of[UN_UID].extent[0].outside, second.map.of[UN_UID].extent[0].outside);
    CHECK_INT(first.become[UN_UID], facts.id[UN_UID].own);
}

int main(void)
{
    the_process_writes_its_own_single_id();
    an_empty_request_has_no_writer();
    a_parent_with_capabilities_writes_many_ids();
    each_capability_counts_for_its_own_kind_only();
    mapping_the_parents_root_takes_setfcap_since_5_12();
    a_range_that_has_root_in_it_takes_setfcap_too();
    an_id_that_does_not_exist_here_can_not_be_mapped();
    the_own_ids_are_mapped_in_any_namespace();
    extents_are_split_along_the_parent_map();
    limits_are_those_of_the_kernel_and_its_page();
    overlaps_are_found_in_the_whole_request();
    setgroups_stays_allowed_only_with_cap_setgid();
    the_id_inside_is_the_own_id_or_root();
    the_plan_for_this_process_can_be_made_from_its_facts();
}
