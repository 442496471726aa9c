/* Tests of reading the limits of control groups. Files on an ordinary filesystem imitate a cgroup
 * filesystem. */
#include "check.h"
#include "facts/facts.h"

#include <ftw.h>
#include <sys/stat.h>

static char top[] = "/tmp/usernsctl-test-XXXXXX";
static char proc[64], mounts[64], users[64];

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status, (void)kind, (void)where;
    return remove(path);
}

static void remove_all(const char *path)
{
    CHECK_INT(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* Writes `text` to the file `name` below the directory `top`, and creates its parent
 * directories. */
static void write_file(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", top, name);
    for (char *at = path + strlen(top) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fputs(text, file) >= 0);
    CHECK_INT(fclose(file), 0);
}

static const struct un_groups groups = {
    .proc = proc, .mounts = mounts, .users = users, .is_copy = true};

static void check_limits(uint64_t memory, uint64_t processors)
{
    struct un_group_limits limits;
    un_group_limits(&groups, &limits);
    CHECK(limits.memory == memory);
    CHECK(limits.processors == processors);
}

/* Creates an empty tree of control groups, and a fake /proc. `line` becomes the content of
 * /proc/self/cgroup, which names this process's control group. */
static void begin(const char *line)
{
    struct stat status;
    if (!stat(mounts, &status))
        remove_all(mounts);
    CHECK_INT(mkdir(mounts, 0700), 0);
    write_file("proc/self/cgroup", line);
}

static void the_lowest_limit_of_the_parents_counts(void)
{
    begin("0::/a/b\n");
    write_file("mounts/a/b/memory.max", "536870912\n");
    write_file("mounts/a/b/cpu.max", "max 100000\n");
    check_limits(536870912, UINT64_MAX);
    write_file("mounts/a/memory.max", "1000000\n");
    write_file("mounts/a/cpu.max", "150000 100000\n");
    check_limits(1000000, 2);
    write_file("mounts/memory.max", "max\n");
    write_file("mounts/cpu.max", "1 100000\n");
    check_limits(1000000, 1);
}

static void version_1_has_the_limit_of_all_parents(void)
{
    begin("4:memory:/a\n3:cpu,cpuacct:/a\n0::/a\n");
    write_file("mounts/memory.max", "1\n");
    write_file("mounts/memory/a/memory.stat",
               "cache 7\nhierarchical_memory_limit 300\nhierarchical_memsw_limit 1\n");
    write_file("mounts/cpu/a/cpu.cfs_quota_us", "-1\n");
    write_file("mounts/cpu/a/cpu.cfs_period_us", "100000\n");
    check_limits(300, UINT64_MAX);
    write_file("mounts/cpu/cpu.cfs_quota_us", "250000\n");
    write_file("mounts/cpu/cpu.cfs_period_us", "100000\n");
    check_limits(300, 3);
}

static void a_container_has_its_group_at_the_mount_point(void)
{
    static const char *const lines[] = {"0::/\n", "0::/docker/1\n", "0::/../1\n", "0::/a/../..\n"};
    for (size_t i = 0; i < COUNT(lines); i++) {
        begin(lines[i]);
        write_file("mounts/memory.max", "4096\n");
        check_limits(4096, UINT64_MAX);
    }
}

static void the_name_of_a_group_may_begin_with_dots(void)
{
    begin("0::/a/..b/...\n");
    write_file("mounts/a/..b/.../memory.max", "4096\n");
    check_limits(4096, UINT64_MAX);
}

static void malformed_files_set_no_limit(void)
{
    static const char *const texts[] = {
        "",
        "max",
        "-1\n",
        "-9223372036854771712\n",
        "99999999999999999999999\n",
        "7  8",
        "\n",
        " 7\n",
        "0x7\n",
        "7,5\n",
        "+7",
        "nan\n",
        "\x01",
        "1e3",
        "9223372036854775808\n",
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        begin("0::/a\n");
        write_file("mounts/a/memory.max", texts[i]);
        write_file("mounts/a/cpu.max", texts[i]);
        check_limits(UINT64_MAX, UINT64_MAX);
        begin("2:memory:/a\n3:cpu:/a\n");
        write_file("mounts/memory/a/memory.stat", texts[i]);
        write_file("mounts/cpu/a/cpu.cfs_quota_us", texts[i]);
        write_file("mounts/cpu/a/cpu.cfs_period_us", "0\n");
        check_limits(UINT64_MAX, UINT64_MAX);
    }
    begin("0::/a\n");
    write_file("mounts/a/cpu.max", "9223372036854775807 0\n");
    check_limits(UINT64_MAX, UINT64_MAX);
    write_file("mounts/a/cpu.max", "9223372036854775807 1\n");
    write_file("mounts/a/memory.max", "0\n");
    check_limits(0, INT64_MAX);
}

static void only_regular_groups_count(void)
{
    char path[128];
    begin("0::/a\n");
    write_file("mounts/other", "5\n");
    write_file("mounts/a/x", "");
    snprintf(path, sizeof path, "%s/mounts/a/memory.max", top);
    CHECK_INT(symlink("../other", path), 0);
    check_limits(UINT64_MAX, UINT64_MAX);
    /* A directory that is not on a cgroup filesystem is not a control group, unless groups.is_copy
     * is set. */
    begin("0::/a\n");
    write_file("mounts/a/memory.max", "5\n");
    check_limits(5, UINT64_MAX);
    const struct un_groups real = {.proc = proc, .mounts = mounts, .users = users};
    struct un_group_limits limits;
    un_group_limits(&real, &limits);
    CHECK(limits.memory == UINT64_MAX);
}

static void without_a_group_there_is_no_limit(void)
{
    static const char *const lines[] = {"", "0::\n", "nonsense", "0::a\n", "5:memory:\n"};
    for (size_t i = 0; i < COUNT(lines); i++) {
        begin(lines[i]);
        write_file("mounts/memory.max", "5\n");
        write_file("mounts/memory/memory.stat", "x\nhierarchical_memory_limit 5\n");
        check_limits(UINT64_MAX, UINT64_MAX);
    }
}

static void the_closest_group_with_a_file_is_opened(void)
{
    static const char *const files[] = {"memory.oom_control", "memory.events"};
    int version;
    begin("4:pids:/\n0::/a/b\n");
    CHECK_INT(un_group_open(&groups, "memory", files, &version), -1);
    write_file("mounts/a/memory.events", "oom_kill 3\n");
    write_file("mounts/a/b/x", "");
    un_auto_close int second = un_group_open(&groups, "memory", files, &version);
    CHECK(second >= 0);
    CHECK_INT(version, 2);
    write_file("proc/self/cgroup", "4:memory:/\n0::/a/b\n");
    write_file("mounts/memory/memory.oom_control", "oom_kill 3\n");
    un_auto_close int first = un_group_open(&groups, "memory", files, &version);
    CHECK(first >= 0);
    CHECK_INT(version, 1);
}

/* Creates a version 2 control group in which this process may create child groups with limits. */
static void write_delegated(const char *group)
{
    static const char *const files[][2] = {{"cgroup.procs", "1\n"},
                                           {"cgroup.subtree_control", ""},
                                           {"cgroup.controllers", "cpuset memory pids\n"}};
    char path[256];
    for (size_t i = 0; i < COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", group, files[i][0]);
        write_file(path, files[i][1]);
    }
}

static void check_place(enum un_group_part part, const char *expected, int expected_version)
{
    struct stat status, own;
    char path[512];
    int version;
    un_auto_close int place = un_group_place(&groups, part, &version);
    CHECK_INT(place >= 0, expected != NULL);
    if (!expected)
        return;
    snprintf(path, sizeof path, "%s/%s", top, expected);
    CHECK_INT(version, expected_version);
    CHECK_INT(fstat(place, &status) || stat(path, &own), 0);
    CHECK(status.st_ino == own.st_ino);
}

static void groups_are_made_in_the_own_group(void)
{
    begin("0::/a\n");
    write_delegated("mounts/a");
    check_place(UN_GROUP_MEMORY, "mounts/a", 2);
    check_place(UN_GROUP_CPU, NULL, 0);
    begin("0::/a/usernsctl-callers\n");
    write_delegated("mounts/a");
    write_delegated("mounts/a/usernsctl-callers");
    check_place(UN_GROUP_PIDS, "mounts/a", 2);
    begin("5:pids:/b\n0::/\n");
    write_file("mounts/pids/b/cgroup.procs", "");
    check_place(UN_GROUP_PIDS, "mounts/pids/b/usernsctl", 1);
}

static void a_unit_of_systemd_must_be_delegated(void)
{
    static const char *const units[] = {"run-1.scope", "x.service", "user.slice"};
    char line[64], directory[64];
    for (size_t i = 0; i < COUNT(units); i++) {
        snprintf(line, sizeof line, "0::/%s\n", units[i]);
        snprintf(directory, sizeof directory, "mounts/%s", units[i]);
        begin(line);
        write_delegated(directory);
        check_place(UN_GROUP_MEMORY, NULL, 0);
    }
}

/* Creates the control group of `unit`, a unit of the systemd manager of the user `uid`, with the
 * files of a delegated group. */
static void begin_unit(uint32_t uid, const char *unit)
{
    char line[128], directory[128];
    snprintf(line, sizeof line, "0::/user@%u.service/app.slice/%s\n", uid, unit);
    snprintf(directory, sizeof directory, "mounts/user@%u.service/app.slice/%s", uid, unit);
    begin(line);
    write_delegated(directory);
}

static void write_transient(const char *unit, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "users/%u/systemd/transient/%s", geteuid(), unit);
    write_file(path, text);
}

static void a_transient_unit_of_a_user_may_be_delegated(void)
{
    static const struct {
        const char *text;
        bool is_delegated;
    } cases[] = {
        {"[Scope]\nDelegate=yes\n", true},
        {"[Scope]\nDelegate=memory pids\n", true},
        {"[Scope]\nDelegate=no\n", false},
        {"[Scope]\nDelegate=yes\nDelegate=no\n", false},
        {"[Scope]\nDelegate=no\nDelegate=cpu\n", true},
        {"[Unit]\nDescription=Delegate=yes\n[Service]\nDelegateSubgroup=a\n", false},
        {"", false},
    };
    char own[128];
    snprintf(own, sizeof own, "mounts/user@%u.service/app.slice/run-1.scope", geteuid());
    begin_unit(geteuid(), "run-1.scope");
    check_place(UN_GROUP_MEMORY, NULL, 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_transient("run-1.scope", cases[i].text);
        check_place(UN_GROUP_MEMORY, cases[i].is_delegated ? own : NULL, 2);
    }
    write_transient("run-1.scope", "[Scope]\nDelegate=yes\n");
    begin_unit(geteuid() + 1, "run-1.scope");
    check_place(UN_GROUP_MEMORY, NULL, 0);
    begin("0::/run-1.scope\n");
    write_delegated("mounts/run-1.scope");
    check_place(UN_GROUP_MEMORY, NULL, 0);
}

static void a_long_unit_file_is_read_up_to_a_limit(void)
{
    static const char begin[] = "[Scope]\nEnvironment=", end[] = "Delegate=yes\nA=b\n";
    static const struct {
        size_t length;
        char last; /* the character before `end`; `end` is the end of the unit file */
        bool is_delegated;
    } cases[] = {
        {255, '\n', true},    {256, '\n', true},      {255, 'x', false},
        {100000, '\n', true}, {5 << 20, '\n', false},
    };
    char own[128];
    snprintf(own, sizeof own, "mounts/user@%u.service/app.slice/run-1.scope", geteuid());
    begin_unit(geteuid(), "run-1.scope");
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *text = malloc(cases[i].length + sizeof end);
        CHECK(text != NULL);
        memset(text, 'x', cases[i].length);
        memcpy(text, begin, strlen(begin));
        text[cases[i].length - 1] = cases[i].last;
        memcpy(text + cases[i].length, end, sizeof end);
        write_transient("run-1.scope", text);
        free(text);
        check_place(UN_GROUP_MEMORY, cases[i].is_delegated ? own : NULL, 2);
    }
}

/* Checks that a cgroup is not delegated if its unit file is missing, or is a symbolic link, FIFO or
 * directory. Users can create such files in their own runtime directories. */
static void a_malformed_unit_file_delegates_nothing(void)
{
    char path[256];
    write_transient("yes", "[Scope]\nDelegate=yes\n");
    snprintf(path, sizeof path, "%s/%u/systemd/transient/link.scope", users, geteuid());
    CHECK_INT(symlink("yes", path), 0);
    snprintf(path, sizeof path, "%s/%u/systemd/transient/pipe.scope", users, geteuid());
    CHECK_INT(mkfifo(path, 0600), 0);
    snprintf(path, sizeof path, "%s/%u/systemd/transient/directory.scope", users, geteuid());
    CHECK_INT(mkdir(path, 0700), 0);
    static const char *const units[] = {"link.scope", "pipe.scope", "directory.scope",
                                        "absent.scope"};
    for (size_t i = 0; i < COUNT(units); i++) {
        begin_unit(geteuid(), units[i]);
        check_place(UN_GROUP_MEMORY, NULL, 0);
    }
}

/* Checks that a unit is delegated even if its processes are in a child cgroup: with
 * DelegateSubgroup=, or after usernsctl has moved them. */
static void a_unit_with_a_group_for_its_processes_is_delegated(void)
{
    char group[128];
    begin_unit(geteuid(), "x.service");
    check_place(UN_GROUP_MEMORY, NULL, 0);
    begin_unit(geteuid(), "x.service/usernsctl-callers");
    snprintf(group, sizeof group, "mounts/user@%u.service/app.slice/x.service", geteuid());
    write_delegated(group);
    check_place(UN_GROUP_MEMORY, group, 2);
}

int main(void)
{
    CHECK(mkdtemp(top) != NULL);
    snprintf(proc, sizeof proc, "%s/proc", top);
    snprintf(mounts, sizeof mounts, "%s/mounts", top);
    snprintf(users, sizeof users, "%s/users", top);
    the_lowest_limit_of_the_parents_counts();
    version_1_has_the_limit_of_all_parents();
    a_container_has_its_group_at_the_mount_point();
    the_name_of_a_group_may_begin_with_dots();
    malformed_files_set_no_limit();
    only_regular_groups_count();
    without_a_group_there_is_no_limit();
    the_closest_group_with_a_file_is_opened();
    groups_are_made_in_the_own_group();
    a_unit_of_systemd_must_be_delegated();
    a_transient_unit_of_a_user_may_be_delegated();
    a_long_unit_file_is_read_up_to_a_limit();
    a_malformed_unit_file_delegates_nothing();
    a_unit_with_a_group_for_its_processes_is_delegated();
    remove_all(top);
}
