/* Tests of resolving paths in the root filesystem of a sandbox. */
#include "forked.h"
#include "inside.h"
#include "needs.h"

#include "launch/launch.h"

#include <limits.h>

static struct un_view *view_of(const char *path)
{
    struct un_view *view;
    CHECK_INT(un_view_new(un_child(AT_FDCWD, path), &view), 0);
    return view;
}

/* Resolves a path in `view`, and closes the descriptor of the file that the path names. Returns
 * the result. */
static struct un_reached *follow(const struct un_view *view, const char *path)
{
    static struct un_reached reached;
    un_view_follow(view, "/start", path, &reached);
    if (reached.fd >= 0)
        close(reached.fd);
    return &reached;
}

static void make_root(void)
{
    enter_inside();
    make_directory("root", 0755);
    make_directory("root/start", 0755);
    make_file("root/start/file", "x", 0644);
    CHECK_INT(symlink("start/../..//start/./file", "root/link"), 0);
    CHECK_INT(symlink("circle", "root/circle"), 0);
    CHECK_INT(symlink("/../proc/self/exe", "root/magic"), 0);
}

static void paths_are_followed(void)
{
    make_root();
    int fds = count_fds();
    struct un_view *view = view_of("root");
    CHECK_TEXT(follow(view, "/link")->inside, "/start/file");
    CHECK_TEXT(follow(view, "file")->inside, "/start/file");
    CHECK_TEXT(follow(view, "../../..")->inside, "/");
    CHECK_TEXT(follow(view, "none//./at/all")->missing, "none/at/all");
    CHECK_INT(follow(view, "/circle")->errnum, ELOOP);
    CHECK(follow(view, "/circle")->is_certain);
    CHECK_INT(follow(view, "/link/")->errnum, ENOTDIR);
    CHECK(follow(view, "/magic")->is_of_gvisor);
    CHECK(!follow(view, "/process")->is_of_gvisor);
    un_view_free(&view);
    CHECK_INT(count_fds(), fds);
}

static void mounts_hide_what_is_below(void)
{
    make_root();
    int fds = count_fds();
    struct un_view *view = view_of("root");
    CHECK_INT(un_view_add(view, "/start/file/deep", "", un_child(AT_FDCWD, "scratch")), 0);
    CHECK_INT(un_view_add(view, "/start/file/deep", "", un_child(AT_FDCWD, "root")), 0);
    CHECK_INT(un_view_add(view, "/none/here", "", un_child(AT_FDCWD, "root")), 0);
    CHECK_TEXT(follow(view, "file/deep/start")->missing, "start");
    CHECK_TEXT(follow(view, "/none/here/start")->missing, "");
    CHECK(follow(view, "/none")->is_implicit);
    CHECK_INT(follow(view, "/none")->fd, -1);
    un_view_free(&view);
    CHECK_INT(count_fds(), fds);
}

static void paths_over_our_limit_are_uncertain(void)
{
    static char path[8 * UN_PATH_MAX];
    make_root();
    struct un_view *view = view_of("root");
    memset(path, '/', sizeof path - 1);
    CHECK_INT(follow(view, path)->errnum, ENAMETOOLONG);
    CHECK(!follow(view, path)->is_certain);
    memset(path + 1, 'x', NAME_MAX + 1);
    path[NAME_MAX + 2] = '\0';
    CHECK_INT(follow(view, path)->errnum, ENAMETOOLONG);
    CHECK(follow(view, path)->is_certain);
    un_view_free(&view);
}

static void names_without_an_executable_are_no_commands(void)
{
    struct un_command_fault *fault = malloc(sizeof *fault);
    make_root();
    CHECK(fault != NULL);
    int fds = count_fds();
    struct un_view *view = view_of("root");
    CHECK(un_view_check_command(view, "", "/start", "/", fault));
    CHECK_INT(fault->step, UN_STEP_LOOKUP);
    CHECK(un_view_check_command(view, "file", "/:/start:/none", "/", fault));
    CHECK_INT(fault->errnum, EACCES);
    CHECK_TEXT(fault->reason, "/start/file is not executable");
    CHECK(un_view_check_command(view, "file/x", "", "/start", fault));
    CHECK_INT(fault->errnum, ENOTDIR);
    CHECK(!un_view_check_command(view, "exe", "/start:/proc/self", "/", fault));
    un_view_free(&view);
    free(fault);
    CHECK_INT(count_fds(), fds);
}

int main(void)
{
    static void (*const parts[])(void) = {
        paths_are_followed,
        mounts_hide_what_is_below,
        paths_over_our_limit_are_uncertain,
        names_without_an_executable_are_no_commands,
    };
    need_user_namespaces();
    for (size_t i = 0; i < COUNT(parts); i++)
        check_in_child(parts[i]);
    check_no_child_left();
    return 0;
}
