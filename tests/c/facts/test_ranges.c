/* Tests of determining subordinate id ranges and helpers from files and by running programs. */
#include "needs.h"
#include "ranges.h"

#include <sys/stat.h>

static struct un_request request;
static struct un_facts facts;
static struct un_plan plan;
static struct un_error err;

/* A directory with files and programs that the tests use in place of those of the host, such as
 * /etc/subuid and newuidmap. */
struct place {
    char dir[64];
    char file[5][96]; /* paths of the files subuid, subgid, passwd, nsswitch.conf and login.defs */
    struct un_sources sources;
};

static struct place place;

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
    static const char *const names[] = {"subuid", "subgid", "passwd", "nsswitch", "login.defs"};
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
    put(place->file[4], "UMASK 022\n", 0644);
    place->sources = (struct un_sources){
        .subid = {place->file[0], place->file[1]},
        .passwd = place->file[2],
        .nsswitch = place->file[3],
        .login = place->file[4],
        .path = place->dir,
    };
}

static void put_program(const struct place *place, const char *name, const char *text, mode_t mode)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", place->dir, name);
    put(path, text, mode);
}

static void remove_place(const struct place *place)
{
    static const char *const names[] = {"subuid",    "subgid",     "passwd",
                                        "nsswitch",  "login.defs", "newuidmap",
                                        "newgidmap", "getsubids",  "getent"};
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
    make_place(&place);
    read_facts(&place);
    CHECK_TEXT(facts.user, "anna");
    CHECK_INT(facts.user_gid, getegid());
    CHECK_INT(facts.id[UN_UID].ranges.len, 1);
    CHECK_INT(facts.id[UN_UID].ranges.range[0].start, 100000);
    CHECK_INT(facts.id[UN_GID].ranges.range[0].start, 200000);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_MISSING);
    CHECK_TEXT(facts.id[UN_UID].helper, "");

    /* A line "subid: files" in nsswitch.conf means the same as no such line. */
    put(place.file[3], "passwd: files\nsubid: files\n", 0644);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].ranges.len, 1);
    remove_place(&place);
}

static void ranges_of_another_name_of_the_uid_are_read(void)
{
    char text[128];
    make_place(&place);
    snprintf(text, sizeof text, "anna:x:%u:1::/:\ncarla:x:%u1:1::/:\nberta:x:%u:1::/:\n", geteuid(),
             geteuid(), geteuid());
    put(place.file[2], text, 0644);
    put(place.file[0], "carla:100000:10\nberta:300000:30\n", 0644);
    read_facts(&place);
    CHECK_TEXT(facts.user, "anna");
    CHECK_INT(facts.id[UN_UID].ranges.len, 1);
    CHECK_INT(facts.id[UN_UID].ranges.range[0].start, 300000);
    CHECK_INT(facts.id[UN_GID].ranges.range[0].start, 200000);
    put(place.file[0], "carla:100000:10\n", 0644);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].ranges.len, 0);
    remove_place(&place);
}

static void a_helper_is_judged_by_its_file(void)
{
    make_place(&place);
    put_program(&place, "newuidmap", "#!/bin/sh\n", 0644);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_NOT_EXECUTABLE);

    /* A script counts as a working helper even without a setuid bit, because it may start a setuid
     * program. */
    put_program(&place, "newuidmap", "#!/bin/sh\n", 0755);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_READY);

    put_program(&place, "newuidmap", "\177ELF program\n", 0755);
    put_program(&place, "newgidmap", "\177ELF program\n", 04755);
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_NOT_SETUID);
    CHECK_HAS(facts.id[UN_UID].helper, "/newuidmap");
    /* A setuid bit makes newuidmap or newgidmap work only if root owns the file. */
    CHECK_INT(facts.id[UN_GID].helper_state, geteuid() ? UN_HELPER_NOT_SETUID : UN_HELPER_READY);

    /* The search in PATH skips a directory that is named like the helper, newuidmap or
     * newgidmap. */
    char directory[128], two[256];
    snprintf(directory, sizeof directory, "%s/getent", place.dir);
    CHECK_INT(mkdir(directory, 0755), 0);
    char inner[160];
    snprintf(inner, sizeof inner, "%s/newuidmap", directory);
    CHECK_INT(mkdir(inner, 0755), 0);
    snprintf(two, sizeof two, "%s:%s", directory, place.dir);
    place.sources.path = two;
    read_facts(&place);
    CHECK_INT(facts.id[UN_UID].helper_state, UN_HELPER_NOT_SETUID);
    CHECK(!strstr(facts.id[UN_UID].helper, "getent"));
    CHECK_INT(rmdir(inner), 0);
    CHECK_INT(rmdir(directory), 0);

    /* The search finds the first helper in PATH, and ignores relative directories in PATH. */
    char path[256];
    snprintf(path, sizeof path, "relative::%s:/usr/bin", place.dir);
    place.sources.path = path;
    read_facts(&place);
    CHECK_HAS(facts.id[UN_UID].helper, place.dir);
    remove_place(&place);
}

/* Checks that the user's name is the one that getpwuid(3) finds, not that of a comment or of an NIS
 * entry with the same uid. */
static void lines_that_are_no_entry_are_skipped(void)
{
    char text[256];
    uint32_t uid = geteuid();
    make_place(&place);
    snprintf(text, sizeof text,
             "#old:x:%u:1::/:\n+nis:x:%u:1::/:\n-nis:x:%u:1::/:\n"
             " \tanna:x:%u:7::/:\nberta:x:%u:8::/:\n",
             uid, uid, uid, uid, uid);
    put(place.file[2], text, 0644);
    read_facts(&place);
    CHECK_TEXT(facts.user, "anna");
    CHECK_INT(facts.user_gid, 7);
    CHECK_INT(facts.id[UN_UID].ranges.len, 1);
    remove_place(&place);
}

static void an_unknown_user_is_queried_by_getent(void)
{
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

static void another_source_of_ranges_is_queried(void)
{
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

    static const struct {
        const char *program;
        const char *says;
    } bad[] = {
        {"echo 'no service' >&2; exit 1", "the command failed"},
        {"printf '0: anna 100000 65536\\n1: anna 300000 655'", "the output is truncated"},
        {"echo '0: anna 100000'", "not a range"},
        {"echo '0: anna 100000 0'", "not a range"},
        {"echo '0: anna 4294967290 9'", "not a range"},
        {"echo '0: anna 18446744073709551615 9'", "not a range"},
        {"echo 'Error fetching ranges'", "not a range"},
        {"i=0; while [ $i -lt 341 ]; do echo \"$i: anna ${i}000 9\"; i=$((i+1)); done",
         "more ranges than"},
        {"head -c 1000000 /dev/zero | tr '\\0' 1", "the output is truncated"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char script[256];
        snprintf(script, sizeof script, "#!/bin/sh\n%s\n", bad[i].program);
        put_program(&place, "getsubids", script, 0755);
        CHECK_INT(un_facts_read_ranges(&facts, &place.sources, &err), -1);
        CHECK_INT(err.step, UN_STEP_SUBID);
        CHECK_TEXT(err.cause, "nss-subid");
        CHECK_HAS(err.detail, "anna");
        CHECK_HAS(err.detail, bad[i].says);
    }
    remove_place(&place);
}

static void all_ranges_that_a_map_can_hold_are_queried(void)
{
    char script[512], name[256];
    make_place(&place);
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    put(place.file[3], "subid: sss\n", 0644);
    snprintf(script, sizeof script,
             "#!/bin/sh\ni=0; while [ $i -lt 340 ]; do echo \"$i: %s $((4000000000+i*2)) 1\"; "
             "i=$((i+1)); done\n",
             name);
    put_program(&place, "getsubids", script, 0755);
    read_facts(&place);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        CHECK_INT(facts.id[kind].ranges.len, 340);
        CHECK_INT(facts.id[kind].ranges.range[339].start, 4000000678);
    }
    remove_place(&place);
}

static void login_defs_sets_any_group(void)
{
    static const struct {
        const char *text;
        bool any;
    } cases[] = {
        {"", false},
        {"GRANT_AUX_GROUP_SUBIDS yes\n", true},
        {"  GRANT_AUX_GROUP_SUBIDS\t YES \t\n", true},
        {"GRANT_AUX_GROUP_SUBIDS \"yes\"", true},
        {"GRANT_AUX_GROUP_SUBIDS no\nGRANT_AUX_GROUP_SUBIDS yes\n", true},
        {"GRANT_AUX_GROUP_SUBIDS yes\nGRANT_AUX_GROUP_SUBIDS no\n", false},
        {"GRANT_AUX_GROUP_SUBIDS yes # for some\n", false},
        {"#GRANT_AUX_GROUP_SUBIDS yes\n", false},
        {"# GRANT_AUX_GROUP_SUBIDS yes\n", false},
        {"GRANT_AUX_GROUP_SUBIDS\n", false},
        {"GRANT_AUX_GROUP_SUBIDS \n", false},
        {"GRANT_AUX_GROUP_SUBIDSX yes\n", false},
        {"GRANT_AUX_GROUP yes\n", false},
    };
    char line[64];
    make_place(&place);
    put(place.file[4], "GRANT_AUX_GROUP_SUBIDS yes\n", 0644);
    read_facts(&place);
    /* GRANT_AUX_GROUP_SUBIDS in login.defs is not needed if the gid is that of the user's passwd
     * entry. */
    CHECK_INT(facts.any_group, false);
    snprintf(line, sizeof line, "anna:x:%u:%u::/:\n", geteuid(), getegid() + 1);
    put(place.file[2], line, 0644);
    for (size_t i = 0; i < COUNT(cases); i++) {
        put(place.file[4], cases[i].text, 0644);
        read_facts(&place);
        CHECK_INT(facts.any_group, cases[i].any);
    }
    remove_place(&place);
}

static void the_helpers_are_looked_for_as_a_pair(void)
{
    struct place place, other;
    char path[192], want[128];
    make_place(&place);
    make_place(&other);
    snprintf(path, sizeof path, "%s:%s", place.dir, other.dir);
    place.sources.path = path;
    put_program(&other, "newuidmap", "", 0755);
    put_program(&other, "newgidmap", "", 0755);
    put_program(&place, "newgidmap", "", 0755);
    read_facts(&place);
    snprintf(want, sizeof want, "%s/newgidmap", other.dir);
    CHECK_TEXT(facts.id[UN_GID].helper, want);
    /* The search skips a helper that is not executable, and finds the next helper in PATH. */
    put_program(&other, "newgidmap", "", 0644);
    read_facts(&place);
    snprintf(want, sizeof want, "%s/newgidmap", place.dir);
    CHECK_TEXT(facts.id[UN_GID].helper, want);
    remove_place(&place);
    remove_place(&other);
}

/* Checks that only regular files are opened. In an untrusted image, /etc may contain other files:
 * open(2) blocks on a FIFO, and read(2) may never reach the end of a device. */
static void only_regular_files_are_read(void)
{
    static const mode_t kinds[] = {S_IFIFO, S_IFSOCK, S_IFLNK};
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t i = 0; i < 5; i++) {
            make_place(&place);
            CHECK_INT(unlink(place.file[i]), 0);
            if (kinds[k] == S_IFLNK)
                CHECK_INT(symlink("/dev/zero", place.file[i]), 0);
            else
                CHECK_INT(mknod(place.file[i], kinds[k] | 0644, 0), 0);
            CHECK_OK(un_facts_read(&facts, &err), &err);
            int failed = un_facts_read_ranges(&facts, &place.sources, &err);
            CHECK_INT(failed, i < 2 ? -1 : 0);
            if (failed)
                CHECK_TEXT(err.cause, "subid-not-a-file");
            remove_place(&place);
        }
}

static void unreadable_ranges_fail_unless_one_id_is_allowed(void)
{
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

static void a_missing_grant_is_suggested_with_free_ids(void)
{
    static const char wanted[] =
        "usermod --add-subuids 300016-365551 --add-subgids 300016-365551 anna    # as root";
    make_place(&place);
    put(place.file[0], "berta:100000:65536\nx:300000:0x10\n\nbad:900000\n", 0644);
    init_wanted(&request, 0, UN_FILL_PACKED);
    CHECK_INT(un_plan_for_caller(&request, &place.sources, &facts, &plan, &err), -1);
    CHECK_TEXT(err.cause, "no-subordinate-range");
    bool exist;
    /* Check the remedy only if this user namespace maps these high ids. Many containers map fewer
     * ids. */
    if (un_map_run(&facts.id[UN_UID].parent, UN_INSIDE, 300016, 65536, &exist) == 65536 && exist)
        CHECK_TEXT(err.remedy, wanted);
    char remedy[UN_DETAIL_MAX];
    strcpy(remedy, err.remedy);
    request.allow_single_id = true;
    CHECK_OK(un_plan_for_caller(&request, &place.sources, &facts, &plan, &err), &err);
    CHECK_TEXT(plan.wanted.remedy, remedy);
    remove_place(&place);
}

static void no_grant_is_suggested_for_names_with_shell_characters(void)
{
    static const char *const names[] = {"a b", "$(id)", "a;b", "a\\b", "a'b"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char line[64];
        make_place(&place);
        snprintf(line, sizeof line, "%s:x:%u:%u::/:\n", names[i], geteuid(), getegid());
        put(place.file[2], line, 0644);
        init_wanted(&request, 0, UN_FILL_PACKED);
        CHECK_INT(un_plan_for_caller(&request, &place.sources, &facts, &plan, &err), -1);
        CHECK_TEXT(err.cause, "no-subordinate-range");
        CHECK_TEXT(err.remedy, "");
        remove_place(&place);
    }
}

int main(void)
{
    facts_come_from_the_files();
    ranges_of_another_name_of_the_uid_are_read();
    a_helper_is_judged_by_its_file();
    lines_that_are_no_entry_are_skipped();
    an_unknown_user_is_queried_by_getent();
    another_source_of_ranges_is_queried();
    all_ranges_that_a_map_can_hold_are_queried();
    login_defs_sets_any_group();
    the_helpers_are_looked_for_as_a_pair();
    a_missing_grant_is_suggested_with_free_ids();
    no_grant_is_suggested_for_names_with_shell_characters();
    only_regular_files_are_read();
    unreadable_ranges_fail_unless_one_id_is_allowed();
    check_no_child_left();
    return 0;
}
