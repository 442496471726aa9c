/* Who may write a map of ranges, what stands in the way, and how the facts about it are found. */
#include "needs.h"
#include "ranges.h"

#include <linux/capability.h>
#include <sys/stat.h>

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
    CHECK(un_cause_find(cause) != NULL);
    CHECK_HAS(err.detail, says);
}

static void what_a_helper_lacks_is_told(void)
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
    check_refused("helper-missing", "it takes newuidmap; it is not installed");
}

static void what_the_caller_lacks_is_told(void)
{
    init_granted();
    facts.no_new_privs = true;
    check_refused("no-new-privs", "no_new_privs is set");
    init_granted();
    facts.in_bounding_set = false;
    check_refused("bounding-set", "not in our bounding set");
    init_granted();
    facts.user[0] = '\0';
    check_refused("no-passwd-entry", "our uid has no name");
    init_granted();
    facts.user_gid = 5;
    check_refused("gid-differs-from-passwd", "not the one in our passwd entry");
}

static void only_what_is_granted_is_asked_of_a_helper(void)
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
        /* A second extent: one's own id alone would be written by oneself. */
        want_extent(&request, UN_UID, (struct un_extent){100000, 120000, 1});
        if (cases[i].extent.outside <= 120000 &&
            cases[i].extent.count > 120000 - cases[i].extent.outside)
            request.id[UN_UID].more.len = 1;
        if (cases[i].granted) {
            CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
            CHECK_INT(plan.writer[UN_UID], UN_WRITER_HELPER);
        } else {
            check_refused("range-not-granted", "are not granted to user anna by /etc/subuid");
        }
    }
}

static void each_capability_stands_in_for_its_own_helper(void)
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

static void one_id_is_enough_only_where_that_is_allowed(void)
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

    /* A map that makes no sense is no reason to go on with another. */
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

/* Facts from files and programs of our own. */
struct place {
    char dir[64];
    char file[4][96]; /* subuid, subgid, passwd, nsswitch */
    struct un_sources sources;
};

static void put(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fputs(text, file) >= 0);
    CHECK_INT(fclose(file), 0);
    CHECK_INT(chmod(path, mode), 0);
}

static void make_place(struct place *place)
{
    static const char *const names[] = {"subuid", "subgid", "passwd", "nsswitch"};
    strcpy(place->dir, "/tmp/usernsctl-test-XXXXXX");
    CHECK(mkdtemp(place->dir) != NULL);
    for (size_t i = 0; i < COUNT(names); i++)
        snprintf(place->file[i], sizeof place->file[i], "%s/%s", place->dir, names[i]);
    char line[64];
    snprintf(line, sizeof line, "x:x:77777:1::/:\nanna:x:%u:%u::/:\n", geteuid(), getegid());
    put(place->file[0], "anna:100000:10\n", 0644);
    put(place->file[1], "anna:200000:20\n", 0644);
    put(place->file[2], line, 0644);
    put(place->file[3], "passwd: files\n", 0644);
    place->sources = (struct un_sources){
        {place->file[0], place->file[1]}, place->file[2], place->file[3], place->dir};
}

static void put_program(const struct place *place, const char *name, const char *text, mode_t mode)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", place->dir, name);
    put(path, text, mode);
}

static void remove_place(const struct place *place)
{
    static const char *const names[] = {"subuid",    "subgid",    "passwd",    "nsswitch",
                                        "newuidmap", "newgidmap", "getsubids", "getent"};
    char path[128];
    for (size_t i = 0; i < COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", place->dir, names[i]);
        if (access(path, F_OK) == 0)
            CHECK_INT(unlink(path), 0);
    }
    CHECK_INT(rmdir(place->dir), 0);
}

static void read_facts(const struct place *place)
{
    CHECK_OK(un_facts_read(&facts, &err), &err);
    CHECK_OK(un_facts_read_ranges(&facts, &place->sources, &err), &err);
    CHECK(facts.has_ranges);
}

static void facts_come_from_the_files(void)
{
    struct place place;
    make_place(&place);
    read_facts(&place);
    CHECK_TEXT(facts.user, "anna");
    CHECK_INT(facts.user_gid, getegid());
    CHECK_INT(facts.id[UN_UID].ranges.len, 1);
    CHECK_INT(facts.id[UN_UID].ranges.range[0].start, 100000);
    CHECK_INT(facts.id[UN_GID].ranges.range[0].start, 200000);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_MISSING);
    CHECK_TEXT(facts.id[UN_UID].helper, "");

    /* "files" is what there is without the line, too. */
    put(place.file[3], "passwd: files\nsubid: files\n", 0644);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].ranges.len, 1);
    remove_place(&place);
}

static void a_helper_is_judged_by_its_file(void)
{
    struct place place;
    make_place(&place);
    put_program(&place, "newuidmap", "#!/bin/sh\n", 0644);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_MISSING);

    put_program(&place, "newuidmap", "#!/bin/sh\n", 0755);
    put_program(&place, "newgidmap", "#!/bin/sh\n", 04755);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_NOT_SETUID);
    CHECK_HAS(facts.id[UN_UID].helper, "/newuidmap");
    /* The bit counts only if it is root's. */
    CHECK_INT(facts.id[UN_GID].helper_state, geteuid() ? UN_HELPER_NOT_SETUID : UN_HELPER_READY);

    /* The first one along the path is the one that would be run; a relative directory is none. */
    char path[256];
    snprintf(path, sizeof path, "relative::%s:/usr/bin", place.dir);
    place.sources.path = path;
    read_facts(&place);
    CHECK_HAS(facts.id[UN_UID].helper, place.dir);
    remove_place(&place);
}

static void a_user_that_is_not_in_the_file_is_asked_for(void)
{
    struct place place;
    char text[128];
    make_place(&place);
    put(place.file[2], "x:x:77777:1::/:\n", 0644);
    put(place.file[0], "berta:100000:10\n", 0644);
    read_facts(&place);
    CHECK_TEXT(facts.user, "");
    CHECK_INT(facts.user_gid, -1);
    CHECK_INT(facts.id[UN_UID].ranges.len, 0);

    snprintf(text, sizeof text, "#!/bin/sh\ntest \"$*\" = 'passwd %u' && echo berta:x:%u:33::/:\n",
             geteuid(), geteuid());
    put_program(&place, "getent", text, 0755);
    read_facts(&place);
    CHECK_TEXT(facts.user, "berta");
    CHECK_INT(facts.user_gid, 33);
    CHECK_INT(facts.id[UN_UID].ranges.len, 1);
    remove_place(&place);
}

static void another_source_of_ranges_is_asked(void)
{
    struct place place;
    make_place(&place);
    put(place.file[3], "passwd: files\n  subid:\tsss\n", 0644);
    put_program(&place, "getsubids",
                "#!/bin/sh\n"
                "test \"$1\" = -g && { echo \"0: $2 500000 7\"; exit; }\n"
                "test \"$1\" = anna && printf '0: anna 300000 5\\n1: anna 400000 6\\n'\n",
                0755);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].ranges.len, 2);
    CHECK_INT(facts.id[UN_UID].ranges.range[0].start, 300000);
    CHECK_INT(facts.id[UN_UID].ranges.range[0].count, 5);
    CHECK_INT(facts.id[UN_UID].ranges.range[1].start, 400000);
    CHECK_INT(facts.id[UN_GID].ranges.len, 1);
    CHECK_INT(facts.id[UN_GID].ranges.range[0].start, 500000);

    put_program(&place, "getsubids", "#!/bin/sh\necho 'no service' >&2; exit 1\n", 0755);
    CHECK_INT(un_facts_read_ranges(&facts, &place.sources, &err), -1);
    CHECK_INT(err.step, UN_STEP_SUBID);
    CHECK_TEXT(err.cause, "nss-subid");
    CHECK_HAS(err.detail, "anna");
    remove_place(&place);
}

static void what_can_not_be_read_is_survived_with_one_id_only_on_demand(void)
{
    struct place place;
    make_place(&place);
    place.sources.subid[UN_UID] = "/";
    init_wanted(&request, 0, UN_FILL_PACKED);
    CHECK_INT(un_plan_for_caller(&request, &place.sources, &facts, &plan, &err), -1);
    CHECK_INT(err.step, UN_STEP_SUBID);
    request.allow_single_id = true;
    CHECK_OK(un_plan_for_caller(&request, &place.sources, &facts, &plan, &err), &err);
    CHECK(plan.single_id);
    CHECK_INT(plan.wanted.step, UN_STEP_SUBID);
    CHECK_INT(plan.map.of[UN_UID].len, 1);
    remove_place(&place);
}

int main(void)
{
    what_a_helper_lacks_is_told();
    what_the_caller_lacks_is_told();
    only_what_is_granted_is_asked_of_a_helper();
    each_capability_stands_in_for_its_own_helper();
    one_id_is_enough_only_where_that_is_allowed();
    ranges_are_looked_up_only_if_they_matter();
    facts_come_from_the_files();
    a_helper_is_judged_by_its_file();
    a_user_that_is_not_in_the_file_is_asked_for();
    another_source_of_ranges_is_asked();
    what_can_not_be_read_is_survived_with_one_id_only_on_demand();
    check_no_child_left();
    return 0;
}
