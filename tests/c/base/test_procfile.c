/* Tests of facts about this process that are read from /proc: its control group, AppArmor label and
 * mounts. */
#include "base/base.h"
#include "check.h"

#include <sys/stat.h>
#include <unistd.h>

static char proc[64];

static void write_file(const char *name, const char *text)
{
    char path[96];
    snprintf(path, sizeof path, "%s/self/%s", proc, name);
    FILE *file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fputs(text, file) >= 0);
    CHECK_INT(fclose(file), 0);
}

static void check_cgroup(const char *controller, const char *want)
{
    char path[64] = "before";
    CHECK(un_proc_cgroup(proc, controller, path, sizeof path));
    CHECK_TEXT(path, want);
}

static void each_hierarchy_has_its_own_path(void)
{
    write_file("cgroup", "12:cpu,cpuacct:/c\n4:memory:/a/b\n3:pids:/\n0::/user.slice/x:y\n");
    check_cgroup("memory", "/a/b");
    check_cgroup("pids", "/");
    check_cgroup("", "/user.slice/x:y");
    check_cgroup("cpu", "/c");
    check_cgroup("cpuacct", "/c");
}

/* Checks that the longest possible line of /proc/self/cgroup is parsed as one line, even if the end
 * of the path looks like another line. */
static void a_long_path_is_one_line(void)
{
    static const char end[] = "0::/evil\n";
    char line[UN_PATH_MAX + 64], path[64];
    memset(line, 'a', sizeof line);
    memcpy(line, "4:memory:/", strlen("4:memory:/"));
    strcpy(line + UN_PATH_MAX - 1, end);
    write_file("cgroup", line);
    CHECK(!un_proc_cgroup(proc, "", path, sizeof path));
}

static void missing_files_are_not_found(void)
{
    char path[64];
    write_file("cgroup", "4:memory:/a\nnonsense\n7\n");
    CHECK(!un_proc_cgroup(proc, "", path, sizeof path));
    CHECK(!un_proc_cgroup(proc, "pids", path, sizeof path));
    CHECK(!un_proc_cgroup(proc, "mem", path, sizeof path));
    CHECK(!un_proc_cgroup(proc, "memory", path, 2));
    CHECK(!un_proc_cgroup("/no/such", "memory", path, sizeof path));
}

static void a_mount_that_hides_nothing_does_not_count(void)
{
    const char *own = "21 20 0:5 / /proc rw - proc proc rw\n";
    const char *empty = "22 21 0:6 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n";
    char text[256];
    snprintf(text, sizeof text, "%s%s", own, empty);
    write_file("mountinfo", text);
    CHECK(un_proc_has_mount(proc, "/proc", false));
    CHECK(!un_proc_has_mount(proc, "/proc", true));
    snprintf(text, sizeof text, "%s%s%s", own, empty, "23 21 0:7 / /proc/uptime rw - tmpfs x rw\n");
    write_file("mountinfo", text);
    CHECK(un_proc_has_mount(proc, "/proc", true));
    snprintf(text, sizeof text, "%s/self/mountinfo", proc);
    CHECK_INT(unlink(text), 0);
}

static void a_label_has_no_end_of_line(void)
{
    char label[64] = "before";
    CHECK(!un_proc_apparmor(proc, "self", label, sizeof label));
    write_file("attr/apparmor/current", "mine (enforce)\n");
    CHECK(un_proc_apparmor(proc, "self", label, sizeof label));
    CHECK_TEXT(label, "mine (enforce)");
    write_file("attr/apparmor/current", "");
    CHECK(!un_proc_apparmor(proc, "self", label, sizeof label));
}

/* Removes the fake /proc, the innermost files first. */
static void remove_all(void)
{
    static const char *const directories[] = {"/self/attr/apparmor", "/self/attr", "/self", ""};
    char path[96];
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        snprintf(path, sizeof path, "%s%s", proc, directories[i]);
        CHECK_INT(rmdir(path), 0);
    }
}

static void make_directory(const char *name)
{
    char path[96];
    snprintf(path, sizeof path, "%s/self%s", proc, name);
    CHECK_INT(mkdir(path, 0700), 0);
}

int main(void)
{
    char path[96];
    strcpy(proc, "/tmp/usernsctl-test-XXXXXX");
    CHECK(mkdtemp(proc) != NULL);
    make_directory("");
    make_directory("/attr");
    make_directory("/attr/apparmor");
    each_hierarchy_has_its_own_path();
    a_long_path_is_one_line();
    missing_files_are_not_found();
    a_mount_that_hides_nothing_does_not_count();
    a_label_has_no_end_of_line();
    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    CHECK_INT(unlink(path), 0);
    snprintf(path, sizeof path, "%s/self/attr/apparmor/current", proc);
    CHECK_INT(unlink(path), 0);
    remove_all();
}
