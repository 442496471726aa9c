/* Our place in the hierarchies of control groups, as /proc tells it. */
#include "base/procfile.h"
#include "check.h"

#include <sys/stat.h>
#include <unistd.h>

static char proc[64];

static void write_cgroup(const char *text)
{
    char path[96];
    snprintf(path, sizeof path, "%s/self/cgroup", proc);
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
    write_cgroup("12:cpu,cpuacct:/c\n4:memory:/a/b\n3:pids:/\n0::/user.slice/x:y\n");
    check_cgroup("memory", "/a/b");
    check_cgroup("pids", "/");
    check_cgroup("", "/user.slice/x:y");
}

static void what_is_not_there_is_not_found(void)
{
    char path[64];
    write_cgroup("4:memory:/a\nnonsense\n7\n");
    CHECK(!un_proc_cgroup(proc, "", path, sizeof path));
    CHECK(!un_proc_cgroup(proc, "pids", path, sizeof path));
    CHECK(!un_proc_cgroup("/no/such", "memory", path, sizeof path));
}

int main(void)
{
    char path[96];
    strcpy(proc, "/tmp/usernsctl-test-XXXXXX");
    CHECK(mkdtemp(proc) != NULL);
    snprintf(path, sizeof path, "%s/self", proc);
    CHECK_INT(mkdir(path, 0700), 0);
    each_hierarchy_has_its_own_path();
    what_is_not_there_is_not_found();
    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    CHECK_INT(unlink(path), 0);
    snprintf(path, sizeof path, "%s/self", proc);
    CHECK_INT(rmdir(path), 0);
    CHECK_INT(rmdir(proc), 0);
}
