/* Tests of planning maps with subordinate id ranges: which process must write the maps, and what
 * prevents such maps. */
#include "needs.h"
#include "ranges.h"

#include <linux/capability.h>

enum { MINE = 1000 };

static struct un_request request;
static struct un_facts facts;
static struct un_plan plan;
static struct un_error err;

static void init_granted(void)
{
    init_wanted(&request, 0, UN_FILL_PACKED);
    init_user(&facts, MINE, MINE);
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        grant(&facts, kind, 100000, 65536);
}

static void check_refused(const char *cause, const char *says)
{
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_INT(err.step, UN_STEP_PLAN);
    CHECK_TEXT(err.cause, cause);
    CHECK(un_cause_find(cause, &(struct un_cause){0}));
    CHECK_HAS(err.detail, says);
}

static void what_a_helper_lacks_is_reported(void)
{
    static const struct {
        int state;
        const char *cause;
    } cases[] = {
        {UN_HELPER_MISSING, "helper-missing"},
        {UN_HELPER_NOT_SETUID, "helper-not-setuid"},
        {UN_HELPER_NOSUID, "helper-on-nosuid"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_granted();
        facts.id[UN_UID].helper_state = cases[i].state;
        check_refused(cases[i].cause, "/bin/newuidmap");
        init_granted();
        facts.id[UN_GID].helper_state = cases[i].state;
        check_refused(cases[i].cause, "/bin/newgidmap");
    }
    init_granted();
    facts.id[UN_UID].helper_state = UN_HELPER_MISSING;
    facts.id[UN_UID].helper[0] = '\0';
    check_refused("helper-missing", "or newuidmap: the program is in no directory of PATH");
}

static void what_the_caller_lacks_is_reported(void)
{
    init_granted();
    facts.no_new_privs = true;
    check_refused("no-new-privs", "with no_new_privs");
    init_granted();
    facts.in_bounding_set = false;
    check_refused("bounding-set", "the bounding set lacks");
    init_granted();
    facts.user[0] = '\0';
    check_refused("no-passwd-entry", "the caller's uid has no user name");
    init_granted();
    facts.user_gid = 5;
    check_refused("gid-differs-from-passwd", "differs from the passwd entry");
    facts.any_group = true;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK_INT(plan.writer[UN_GID], UN_WRITER_HELPER);
}

static void helpers_are_planned_only_for_granted_ids(void)
{
    static const struct {
        struct un_extent extent;
        bool granted;
    } cases[] = {
        {{0, 100000, 65536}, true},  {{0, 165535, 1}, true},      {{0, MINE, 1}, true},
        {{0, 100000, 65537}, false}, {{0, 99999, 1}, false},      {{0, 99999, 2}, false},
        {{0, 165536, 1}, false},     {{0, MINE, 2}, false},       {{0, 0, 1}, false},
        {{0, 231072, 65536}, false}, {{0, 1, 4294967294}, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_granted();
        init_wanted(&request, -1, UN_FILL_NONE);
        want_extent(&request, UN_UID, cases[i].extent);
        /* With a second extent, the caller can't write the map itself, and needs a helper. */
        want_extent(&request, UN_UID, (struct un_extent){100000, 120000, 1});
        if (cases[i].extent.outside <= 120000 &&
            cases[i].extent.count > 120000 - cases[i].extent.outside)
            request.id[UN_UID].more.len = 1;
        if (cases[i].granted) {
            CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
            CHECK_INT(plan.writer[UN_UID], UN_WRITER_HELPER);
        } else {
            check_refused("range-not-granted", " to user anna");
        }
    }
}

static void an_extent_may_span_adjacent_ranges(void)
{
    static const struct {
        struct un_range ranges[3];
        struct un_extent extent;
        bool granted;
    } cases[] = {
        {{{100000, 10}, {100010, 10}}, {0, 100000, 20}, true},
        {{{100010, 10}, {100000, 10}}, {0, 100000, 20}, true},
        {{{100010, 10}, {100000, 10}}, {0, 100005, 10}, true},
        {{{100000, 10}, {100005, 10}}, {0, 100000, 15}, true},
        {{{100000, 10}, {100010, 10}, {100020, 10}}, {0, 100000, 30}, true},
        {{{0, 5}, {5, UINT32_MAX - 5}}, {0, 0, UINT32_MAX}, true},
        {{{100000, 10}, {100010, 10}}, {0, 100000, 21}, false},
        {{{100000, 10}, {100011, 10}}, {0, 100000, 20}, false},
        {{{100000, 10}, {100011, 10}}, {0, 100010, 2}, false},
        /* newuidmap accepts the caller's own id only as a separate extent. */
        {{{MINE - 5, 5}, {MINE + 1, 5}}, {0, MINE - 5, 11}, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_granted();
        init_wanted(&request, -1, UN_FILL_NONE);
        facts.id[UN_UID].ranges.len = 0;
        for (size_t n = 0; n < COUNT(cases[i].ranges); n++)
            if (cases[i].ranges[n].count)
                grant(&facts, UN_UID, cases[i].ranges[n].start, cases[i].ranges[n].count);
        want_extent(&request, UN_UID, cases[i].extent);
        int result = un_plan_make(&request, &facts, &plan, &err);
        CHECK_INT(result, cases[i].granted ? 0 : -1);
        if (!cases[i].granted)
            CHECK_TEXT(err.cause, "range-not-granted");
    }
}

static void each_capability_replaces_its_own_helper(void)
{
    init_granted();
    facts.caps = 1ULL << CAP_SETUID;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK_INT(plan.writer[UN_UID], UN_WRITER_PARENT);
    CHECK_INT(plan.writer[UN_GID], UN_WRITER_HELPER);
    CHECK_TEXT(plan.helper[UN_UID], "");

    facts.caps |= 1ULL << CAP_SETGID;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        facts.id[kind].helper_state = UN_HELPER_MISSING;
    facts.no_new_privs = true;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK_INT(plan.writer[UN_GID], UN_WRITER_PARENT);
}

static void one_id_is_enough_only_if_allowed(void)
{
    init_granted();
    request.allow_single_id = true;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK(!plan.single_id);
    CHECK_INT(plan.map.of[UN_UID].len, 2);

    facts.id[UN_GID].ranges.len = 0;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK(plan.single_id);
    CHECK_TEXT(plan.wanted.cause, "no-subordinate-range");
    check_map_is(&plan.map.of[UN_UID], "0 1000 1\n");
    check_map_is(&plan.map.of[UN_GID], "0 1000 1\n");
    CHECK_INT(plan.writer[UN_UID], UN_WRITER_SELF);
    CHECK_INT(plan.setgroups, UN_SETGROUPS_DENY);

    request.allow_single_id = false;
    check_refused("no-subordinate-range", "/etc/subgid");

    /* An invalid map is an error even with allow_single_id. */
    init_granted();
    request.allow_single_id = true;
    want_extent(&request, UN_UID, (struct un_extent){0, 100000, 1});
    CHECK_INT(un_plan_make(&request, &facts, &plan, &err), -1);
    CHECK_TEXT(err.cause, "map-invalid");
}

static void ranges_are_looked_up_only_if_they_matter(void)
{
    static const struct {
        int fill;
        bool extents;
        uint64_t caps;
        bool needs;
    } cases[] = {
        {UN_FILL_NONE, false, 0, false},
        {UN_FILL_PACKED, false, UINT64_MAX, true},
        {UN_FILL_IDENTITY, false, UINT64_MAX, true},
        {UN_FILL_ALL, false, 0, true},
        {UN_FILL_ALL, false, UINT64_MAX, false},
        {UN_FILL_NONE, true, 0, true},
        {UN_FILL_NONE, true, UINT64_MAX, false},
        {UN_FILL_NONE, true, 1ULL << CAP_SETGID, true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        init_wanted(&request, 0, cases[i].fill);
        init_user(&facts, MINE, MINE);
        facts.caps = cases[i].caps;
        if (cases[i].extents)
            want_extent(&request, UN_UID, (struct un_extent){1, 100000, 1});
        CHECK_INT(un_plan_needs_ranges(&request, &facts), cases[i].needs);
    }
}

int main(void)
{
    what_a_helper_lacks_is_reported();
    what_the_caller_lacks_is_reported();
    helpers_are_planned_only_for_granted_ids();
    an_extent_may_span_adjacent_ranges();
    each_capability_replaces_its_own_helper();
    one_id_is_enough_only_if_allowed();
    ranges_are_looked_up_only_if_they_matter();
    check_no_child_left();
    return 0;
}
