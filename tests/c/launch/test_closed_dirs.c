/* Tests of mount points below directories of the host that belong to other users. Only root can
 * give a directory to another user. */
#include "forked.h"
#include "inside.h"
#include "launch/launch.h"
#include "launched.h"

#include <grp.h>

#define ROOT "/tmp/scratch/usernsctl/root"
#define CALLER 4321
#define FOREIGN 12345

static struct draft draft;
static struct un_error err;

/* Creates directories of root and of another user in a new /tmp, and becomes an unprivileged
 * user. */
static void make_directories(void)
{
    CHECK_INT(unshare(CLONE_NEWNS), 0);
    CHECK_OK(un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, &err), &err);
    CHECK_OK(un_mount("test", "/tmp", "tmpfs", 0, "mode=0755", &err), &err);
    CHECK_INT(chdir("/tmp"), 0);
    make_directory("scratch", 0755);
    make_directory("source", 0755);
    make_directory("roots", 0755);
    make_directory("roots/sub", 0755);
    CHECK_INT(symlink("sub", "roots/link"), 0);
    make_directory("foreign", 0755);
    make_directory("foreign/sub", 0755);
    CHECK_INT(symlink("/tmp/roots", "foreign/link"), 0);
    CHECK_INT(chown("foreign/sub", FOREIGN, FOREIGN), 0);
    CHECK_INT(lchown("foreign/link", FOREIGN, FOREIGN), 0);
    CHECK_INT(chown("foreign", FOREIGN, FOREIGN), 0);
    CHECK_INT(setgroups(0, NULL), 0);
    CHECK_INT(setresgid(CALLER, CALLER, CALLER), 0);
    CHECK_INT(setresuid(CALLER, CALLER, CALLER), 0);
}

static void enter_user_namespace(void)
{
    struct un_plan plan;
    struct un_request request = {.id = {{.map_self = true}, {.map_self = true}}};
    struct un_facts facts;
    CHECK_OK(un_facts_read(&facts, &err), &err);
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK_OK(un_enter(&plan, CLONE_NEWNS, NULL, false, &err), &err);
    CHECK_OK(un_mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL, &err), &err);
}

/* Builds a launch with bind mounts at `one` and `other`. Opens the sources of the mounts before
 * this process enters a user namespace or, if `opens_inside` is set, afterwards. Returns the result
 * of un_launch_build(). */
static int build(const char *one, const char *other, bool opens_inside, struct un_launch **launch)
{
    char lines[2][256];
    make_directories();
    snprintf(lines[0], sizeof lines[0], "bind 0 %s ro", one);
    snprintf(lines[1], sizeof lines[1], "bind 0 %s ro", other);
    *launch = launch_of(&draft, LINES("source follow /tmp/source", "scratch /tmp/scratch",
                                      "machine tmp", lines[0], lines[1]));
    if (opens_inside)
        enter_user_namespace();
    CHECK_OK(un_launch_open(*launch, NULL, &err), &err);
    if (!opens_inside)
        enter_user_namespace();
    return un_launch_build(*launch, NULL, &err);
}

static void check_refused(const char *one, const char *other, bool opens_inside, const char *part)
{
    struct un_launch *launch;
    CHECK_INT(build(one, other, opens_inside, &launch), -1);
    CHECK_TEXT(err.cause, "foreign-link");
    CHECK_HAS(err.detail, part);
    un_launch_close(launch);
}

static bool is_copied(const struct un_launch *launch, const char *path)
{
    struct stat status;
    CHECK_INT(lstat(path, &status), 0);
    return status.st_dev == launch->root.device;
}

static void a_foreign_directory_is_copied(void)
{
    struct un_launch *launch;
    int failed = build("/tmp/foreign/sub", "/tmp/roots/sub", false, &launch);
    CHECK_OK(failed, &err);
    CHECK(is_copied(launch, ROOT "/tmp/foreign"));
    CHECK(!is_copied(launch, ROOT "/tmp/roots"));
    un_launch_close(launch);
}

static void a_link_of_root_is_followed(void)
{
    struct un_launch *launch;
    CHECK_OK(build("/tmp/roots/link/absent", "/tmp/roots/sub", false, &launch), &err);
    CHECK_TEXT(launch->bind[0].destination, "/tmp/roots/sub/absent");
    un_launch_close(launch);
}

static void a_foreign_link_is_not_followed(void)
{
    check_refused("/tmp/foreign/link/sub", "/tmp/roots/sub", false,
                  "/tmp/foreign/link/sub: the symbolic link /tmp/foreign/link is in a directory "
                  "that another user may change");
}

static void a_foreign_link_is_not_followed_in_a_copy(void)
{
    check_refused("/tmp/foreign/sub", "/tmp/foreign/link", false, "link /tmp/foreign/link is in");
}

static void root_is_not_recognised_in_the_user_namespace(void)
{
    check_refused("/tmp/roots/link/absent", "/tmp/roots/sub", true, "link /tmp/roots/link is in");
}

int main(void)
{
    static void (*const parts[])(void) = {
        a_foreign_directory_is_copied,
        a_link_of_root_is_followed,
        a_foreign_link_is_not_followed,
        a_foreign_link_is_not_followed_in_a_copy,
        root_is_not_recognised_in_the_user_namespace,
    };
    if (geteuid()) {
        puts("skipped: only root can give a directory to another user");
        return 0;
    }
    for (size_t i = 0; i < COUNT(parts); i++)
        check_in_child(parts[i]);
    check_no_child_left();
    return 0;
}
