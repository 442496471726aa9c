/* Tests that a launch is rejected if the sandbox could see a hidden directory, or write to the
 * launch file. */
#include "base/base.h"
#include "forked.h"
#include "inside.h"
#include "launch/launch.h"
#include "launched.h"
#include "needs.h"

static struct un_error err;

static int hold(const char *path)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

/* Checks that a bind mount of `path` is rejected with `part` in the error's detail, because it
 * would expose the hidden directory `kept`. If `part` is NULL, checks that the bind mount is
 * allowed. */
static void check_refused(const char *path, const char *kept, const char *part)
{
    size_t which;
    int before = count_fds();
    int fds[] = {hold("/tmp/beside"), hold(path)};
    const char *const names[] = {"the first", "the second"};
    int failed = un_refuse_to_show(fds, names, 2, kept, &which, &err);
    CHECK_INT(failed, part ? -1 : 0);
    if (part) {
        CHECK_TEXT(err.cause, "bind-shows-state");
        CHECK_HAS(err.detail, "the second can't be bind-mounted: this path");
        CHECK_HAS(err.detail, part);
        CHECK_HAS(err.detail, kept);
        CHECK(which == 1);
    }
    close(fds[0]);
    close(fds[1]);
    CHECK_INT(count_fds(), before);
}

static void prepare(void)
{
    enter_inside();
    make_directory("beside", 0755);
    make_directory("a", 0755);
    make_directory("a/state", 0700);
    make_directory("a/state/inner", 0700);
    make_directory("a b", 0755);
    make_directory("other", 0755);
    make_directory("other/mount", 0755);
    CHECK_OK(un_mount("/tmp/a", "/tmp/a b", NULL, MS_BIND, NULL, &err), &err);
    CHECK_OK(un_mount("/tmp/a/state", "/tmp/other/mount", NULL, MS_BIND, NULL, &err), &err);
    CHECK_INT(symlink("a/state", "link"), 0);
    make_directory("first", 0755);
    make_directory("second", 0755);
    make_directory("third", 0755);
    make_directory("third/second", 0755);
    CHECK_INT(symlink("../second/way", "first/way"), 0);
    CHECK_INT(symlink("/tmp/a", "second/way"), 0);
    make_directory("loop", 0755);
    CHECK_INT(symlink("way", "loop/way"), 0);
    CHECK_OK(un_mount("/tmp/second", "/tmp/third/second", NULL, MS_BIND, NULL, &err), &err);
}

static void hidden_directories_are_rejected(void)
{
    prepare();
    check_refused("/tmp/a/state", "/tmp/a/state", "contains");
    check_refused("/tmp/a", "/tmp/a/state", "contains");
    check_refused("/tmp", "/tmp/a/state", "contains");
    check_refused("/", "/tmp/a/state", "contains");
    check_refused("/tmp/link", "/tmp/a/state", "contains");
    check_refused("/tmp/a", "/tmp/link", "contains");
    check_refused("/tmp/a/state/inner", "/tmp/a/state", "is in");
    /* A bind mount of an ancestor of the hidden directory would expose the directory, too, at
     * another path. */
    check_refused("/tmp/a b", "/tmp/a/state", "contains");
    check_refused("/tmp/a b/state/inner", "/tmp/a/state", "is in");
    check_refused("/tmp/other", "/tmp/a/state", "contains");
    check_refused("/tmp/other/mount/inner", "/tmp/a/state", "is in");
    check_refused("/tmp/a/state", "/tmp/a b/state", "contains");
    /* The state directory to hide need not exist yet. */
    check_refused("/tmp/a", "/tmp/a/later/state", "contains");
    check_refused("/tmp/a/state", "/tmp/a/later/state", NULL);
    check_refused("/tmp/a/state", "/tmp/scratch/state", NULL);
    check_refused("/tmp/other", "/tmp/a/later", NULL);
}

/* Checks bind mounts of directories that contain a symbolic link by which a hidden directory is
 * reached. A command that can write to such a directory could replace the link. */
static void links_to_hidden_directories_are_rejected(void)
{
    prepare();
    check_refused("/tmp/first", "/tmp/first/way/state", "has a link to");
    check_refused("/tmp/second", "/tmp/first/way/state", "has a link to");
    check_refused("/tmp/third/second", "/tmp/first/way/state", "has a link to");
    check_refused("/tmp/third", "/tmp/second/way/state", "has a link to");
    check_refused("/tmp/second", "/tmp/second/way/later/state", "has a link to");
    check_refused("/tmp/a", "/tmp/first/way/state", "contains");
    check_refused("/tmp/a/state/inner", "/tmp/first/way/state", "is in");
    check_refused("/tmp/first", "/tmp/second/way/state", NULL);
    /* The check must end even if a component of the hidden directory's path is a symbolic link to
     * itself. */
    check_refused("/tmp/loop", "/tmp/loop/way/state", "contains");
    check_refused("/tmp/a", "/tmp/loop/way/state", NULL);
    check_refused("/tmp/second", "/tmp/a/state", NULL);
}

/* Opens a launch with a bind mount of `source` and checks the error of un_launch_guard(), for the
 * launch file /tmp/a/launch. */
static void check_launch_guard(const char *source, const char *access, const char *templates,
                               const char *cause, const char *part)
{
    struct draft draft;
    char bind[64], line[256];
    const struct un_hidden hidden = {"/nonexistent/state", templates};
    snprintf(line, sizeof line, "source follow %s", source);
    snprintf(bind, sizeof bind, "bind 0 /x %s", access);
    struct un_launch *launch = launch_of(&draft, LINES(line, "scratch /tmp/scratch", bind));
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    int fds = count_fds(), file = hold("/tmp/a/launch");
    int failed = un_launch_guard(launch, file, &hidden, &err);
    CHECK_INT(failed, part ? -1 : 0);
    if (part) {
        CHECK_TEXT(err.cause, cause);
        CHECK_HAS(err.detail, part);
    }
    close(file);
    CHECK_INT(count_fds(), fds);
    un_launch_close(launch);
}

static void the_launch_file_must_not_be_writable(void)
{
    const char *none = "/nonexistent/templates", *cause = "launch-untrusted";
    prepare();
    make_file("a/launch", "", 0644);
    check_launch_guard("/tmp/a/launch", "rw", none, cause, "since /tmp/a/launch is bind-mounted");
    check_launch_guard("/tmp/a", "rw", none, cause, "since /tmp/a is bind-mounted");
    check_launch_guard("/tmp", "rw", none, cause, "since /tmp is bind-mounted");
    check_launch_guard("/tmp", "ro", none, cause, NULL);
    check_launch_guard("/tmp/a/launch", "ro", none, cause, NULL);
    check_launch_guard("/tmp/a/state", "rw", none, cause, NULL);
    check_launch_guard("/tmp/beside", "rw", none, cause, NULL);
}

static void a_launch_shows_no_hidden_directory(void)
{
    const char *cause = "bind-shows-state";
    prepare();
    make_file("a/launch", "", 0644);
    check_launch_guard("/tmp/other", "ro", "/tmp/a/state", cause,
                       "/tmp/other can't be bind-mounted: this path contains");
    check_launch_guard("/tmp/other", "rw", "/tmp/other/later", cause,
                       "/tmp/other can't be bind-mounted: this path contains");
    check_launch_guard("/tmp/other", "ro", "/tmp/other/later", cause, NULL);
    check_launch_guard("/tmp/other", "rw", NULL, cause, NULL);
    check_launch_guard("/tmp/beside", "rw", "/tmp/a/state", cause, NULL);
}

/* Checks that a kernel filesystem is ignored if another mount hides it, because a bind mount does
 * not expose it then. */
static void hidden_mounts_do_not_count(void)
{
    const char *none = "/nonexistent/templates", *uts = "/proc/self/ns/uts";
    struct draft draft;
    prepare();
    make_file("a/launch", "", 0644);
    make_file("other/uts", "", 0644);
    CHECK_OK(un_mount(uts, "/tmp/other/uts", NULL, MS_BIND, NULL, &err), &err);
    struct un_launch *launch = launch_of(
        &draft, LINES("source follow /tmp/other", "scratch /tmp/scratch", "bind 0 /x rw"));
    CHECK_INT(un_launch_open(launch, NULL, &err), -1);
    CHECK_TEXT(err.cause, "bind-writes-machine");
    un_launch_close(launch);
    CHECK_OK(un_mount("tmpfs", "/tmp/other", "tmpfs", 0, NULL, &err), &err);
    check_launch_guard("/tmp/other", "rw", none, NULL, NULL);
}

static void paths_are_compared_by_names(void)
{
    CHECK(un_is_below("/a", "/a") && un_is_below("/a/b", "/a") && un_is_below("/a", "/"));
    CHECK(un_is_below("/", "/") && !un_is_below("/ab", "/a") && !un_is_below("/", "/a"));
    CHECK(!un_is_below("/a", "/a/b"));
}

int main(void)
{
    paths_are_compared_by_names();
    need_user_namespaces();
    check_in_child(hidden_directories_are_rejected);
    check_in_child(links_to_hidden_directories_are_rejected);
    check_in_child(the_launch_file_must_not_be_writable);
    check_in_child(a_launch_shows_no_hidden_directory);
    check_in_child(hidden_mounts_do_not_count);
    check_no_child_left();
    return 0;
}
