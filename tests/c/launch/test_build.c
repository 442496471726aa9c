/* Tests of building the files of a launch, including the root filesystem of the sandbox. */
#include "forked.h"
#include "inside.h"
#include "launch/launch.h"
#include "launched.h"
#include "needs.h"

#include <sys/socket.h>
#include <sys/un.h>

static struct draft draft;
static struct un_error err;
static char remedy[UN_PATH_MAX];

#define SCRATCH "/tmp/scratch/usernsctl"
#define ROOT SCRATCH "/root"

/* Builds the root filesystem of the launch that `lines` describe. Returns the launch, which the
 * caller must close. */
static struct un_launch *build_launch(const char *const *lines)
{
    struct un_launch *launch = launch_of(&draft, lines);
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_OK(un_launch_build(launch, NULL, &err), &err);
    CHECK_TEXT(launch->marks.scratch, SCRATCH);
    return launch;
}

/* Checks that building the launch that `lines` describe fails with `part` in the error's detail,
 * and leaves no descriptors or mounts behind. Stores the remedy, so that the caller can check
 * it. */
static void check_build_fails(const char *const *lines, const char *part)
{
    int fds = count_fds(), mounts = count_mounts();
    struct un_launch *launch = launch_of(&draft, lines);
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_INT(un_launch_build(launch, NULL, &err), -1);
    CHECK_HAS(err.detail, part);
    const char *found = un_launch_remedy(launch);
    snprintf(remedy, sizeof remedy, "%s", found ? found : "");
    un_launch_close(launch);
    CHECK_INT(count_fds(), fds);
    /* There may be fewer mounts than before: when a process removes a directory, the kernel
     * unmounts what other mount namespaces, such as that of this test, have mounted there. */
    CHECK(count_mounts() <= mounts);
}

static void programs_of_the_host_are_visible(void)
{
    struct stat status;
    enter_inside();
    int fds = count_fds();
    struct un_launch *launch = build_launch(
        LINES("scratch /tmp/none", "scratch /tmp/scratch", "machine usr", "machine bin",
              "machine not-there", "directory /run 755", "directory /tmp 1777",
              "directory /run/lock 1777", "link /etc-link /usr/etc", "read-only"));
    CHECK_INT(access(ROOT "/usr/bin", F_OK), 0);
    CHECK_INT(lstat("/bin", &status), 0);
    bool is_link = S_ISLNK(status.st_mode);
    CHECK_INT(lstat(ROOT "/bin", &status), 0);
    CHECK_INT(S_ISLNK(status.st_mode), is_link);
    CHECK_INT(access(ROOT "/not-there", F_OK), -1);
    CHECK_INT(mode_of(ROOT "/tmp"), 01777);
    CHECK_INT(mode_of(ROOT "/run/lock"), 01777);
    CHECK_INT(mkdir(ROOT "/new", 0755), -1);
    CHECK_INT(errno, EROFS);
    CHECK_INT(mkdir(ROOT "/usr/new", 0755), -1);
    CHECK_INT(errno, EROFS);
    CHECK(un_view_has_directory(&launch->view, "/usr/bin"));
    CHECK(un_view_has_directory(&launch->view, "/run/../tmp"));
    CHECK(!un_view_has_directory(&launch->view, "/nowhere"));
    un_launch_close(launch);
    CHECK_INT(count_fds(), fds);
}

/* Creates a root filesystem with symbolic links, and with directories of several modes. */
static void make_tree(void)
{
    make_directory("tree", 0755);
    make_directory("tree/etc", 0755);
    make_directory("tree/open", 0777);
    make_directory("tree/open/inner", 0755);
    make_directory("tree/proc", 0755);
    make_file("tree/etc/passwd", "root\n", 0644);
    make_file("tree/proc/own", "not shown\n", 0644);
    make_file("tree/file", "content\n", 0644);
    CHECK_INT(symlink("/open/inner", "tree/link"), 0);
    CHECK_INT(symlink("../../../etc", "tree/open/up"), 0);
    CHECK_INT(symlink("loop", "tree/loop"), 0);
    make_directory("source", 0755);
    make_file("source/data", "data\n", 0644);
}

#define TREE                                                                                       \
    "source follow /tmp/tree", "source follow /tmp/source", "scratch /tmp/scratch", "tree 0"

static void a_tree_shows_its_files(void)
{
    enter_inside();
    make_tree();
    struct un_launch *launch = build_launch(LINES(TREE, "read-only"));
    CHECK_TEXT(read_text(ROOT "/etc/passwd"), "root\n");
    CHECK_TEXT(read_text(ROOT "/file"), "content\n");
    CHECK_INT(access(ROOT "/proc/own", F_OK), -1);
    CHECK_INT(access(ROOT "/tmp", F_OK), 0);
    CHECK_INT(access(ROOT "/dev", F_OK), 0);
    CHECK_INT(unlink(ROOT "/file"), -1);
    CHECK(un_view_has_directory(&launch->view, "/link"));
    CHECK(un_view_has_directory(&launch->view, "/open/up"));
    CHECK(!un_view_has_directory(&launch->view, "/loop"));
    CHECK(!un_view_has_directory(&launch->view, "/file"));
    un_launch_close(launch);
}

/* Checks how mount points for bind mounts are created. Symbolic links in the root filesystem must
 * be resolved within the root filesystem. A world-writable directory in the path must be replaced
 * by a copy, so that no other user can redirect the mount point. */
static void a_bind_creates_its_mount_point(void)
{
    enter_inside();
    make_tree();
    struct un_launch *launch =
        build_launch(LINES(TREE, "bind 1 /link/made/here ro", "bind 1 /open/up/new rw",
                           "mount /link/made/here/tmp other", "mount /empty empty", "read-only"));
    CHECK(launch->bind_count == 2);
    CHECK_TEXT(launch->bind[0].destination, "/open/inner/made/here");
    CHECK_TEXT(launch->bind[1].destination, "/etc/new");
    CHECK_INT(access(ROOT "/open/inner/made/here", F_OK), 0);
    CHECK_INT(access("tree/open/inner/made", F_OK), -1);
    CHECK_INT(mode_of(ROOT "/open"), 0777);
    CHECK(un_view_has_directory(&launch->view, "/empty"));
    char path[UN_PATH_MAX];
    snprintf(path, sizeof path, "%s/data", launch->bind[0].source);
    CHECK_TEXT(read_text(path), "data\n");
    CHECK_INT(open(path, O_WRONLY), -1);
    snprintf(path, sizeof path, "%s/data", launch->bind[1].source);
    int writable = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(writable >= 0);
    close(writable);
    /* launch->view contains the mounts that runsc will make in the sandbox, not the mounts of the
     * host. */
    CHECK(un_view_has_directory(&launch->view, "/link/made/here"));
    CHECK(!un_view_has_directory(&launch->view, "/link/made/here/data"));
    un_launch_close(launch);
}

/* Checks that a mount point may lie in a filesystem that gVisor mounts, such as /dev/pts in the
 * tmpfs /dev: gVisor itself creates such mount points. */
static void a_mount_may_lie_in_a_filesystem_of_gvisor(void)
{
    enter_inside();
    make_tree();
    struct un_launch *launch = build_launch(LINES(TREE, "mount /data empty", "mount /data/x empty",
                                                  "mount /data/x/y/z other", "read-only"));
    CHECK(un_view_has_directory(&launch->view, "/data/x"));
    un_launch_close(launch);
}

static void bind_failures_name_the_file(void)
{
    enter_inside();
    make_tree();
    make_directory("it's", 0755);
    check_build_fails(LINES(TREE, "bind 1 /file ro"),
                      "/tmp/source is a directory and can't be mounted on");
    CHECK_INT(err.step, UN_STEP_BIND);
    check_build_fails(LINES(TREE, "bind 1 /file/below ro"),
                      "/file/below can't be created in the sandbox");
    CHECK_INT(err.errnum, ENOTDIR);
    check_build_fails(LINES(TREE, "bind 1 /loop/x ro"), "/loop/x can't be created in the sandbox");
    CHECK_INT(err.errnum, ELOOP);
    check_build_fails(
        LINES("source follow /tmp/it's", TREE, "bind 0 /data rw", "bind 0 /data/a/b rw"),
        "the mount point /data/a/b does not exist in /tmp/it's/a, which is mounted there");
    CHECK_TEXT(remedy, "create '/tmp/it'\"'\"'s/a/b' first");
    check_build_fails(
        LINES(TREE, "mount /data empty", "bind 1 /data/a rw"),
        "the mount point /data/a can't be created: another mount hides its directory");
    check_build_fails(LINES(TREE, "bind 1 /data rw", "mount /data/x other"),
                      "the mount point /data/x does not exist in /tmp/source, which");
}

#define FILE_AND_TREE                                                                              \
    "source follow /tmp/tree/file", "source follow /tmp/tree", "scratch /tmp/scratch", "tree 1"

static void special_files_are_no_mount_points(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "tree/socket"};
    enter_inside();
    make_tree();
    CHECK_INT(mkfifo("tree/fifo", 0644), 0);
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_INT(bind(server, (const struct sockaddr *)&name, sizeof name), 0);
    check_build_fails(LINES(FILE_AND_TREE, "bind 0 /fifo ro"),
                      "/fifo is a FIFO, and gVisor can't mount anything on it");
    CHECK_HAS(remedy, "remove /fifo from the root filesystem");
    check_build_fails(LINES(FILE_AND_TREE, "bind 0 /socket ro"), "/socket is a socket, and");
    close(server);
}

/* Checks that /etc/resolv.conf may be a symbolic link to a file in /run, as on hosts with systemd.
 * The sandbox does not see the host's /run, so the file must be copied to the target of the link in
 * the sandbox. */
static void resolv_conf_is_copied_to_the_link_target(void)
{
    enter_inside();
    make_tree();
    CHECK_INT(symlink("../run/resolve/stub.conf", "tree/etc/resolv.conf"), 0);
    CHECK_OK(un_mount("test", "/etc", "tmpfs", 0, "mode=0755", &err), &err);
    struct un_launch *launch = build_launch(LINES(TREE, "resolver"));
    CHECK_INT(access(ROOT "/run", F_OK), -1);
    un_launch_close(launch);
    CHECK_INT(umount2("/tmp/scratch", MNT_DETACH), 0);
    make_file("/etc/resolv.conf", "nameserver 192.0.2.1\n", 0644);
    launch = build_launch(LINES(TREE, "resolver"));
    CHECK_TEXT(read_text(ROOT "/run/resolve/stub.conf"), "nameserver 192.0.2.1\n");
    un_launch_close(launch);
    CHECK_INT(umount2("/tmp/scratch", MNT_DETACH), 0);
    CHECK_INT(unlink("tree/etc/resolv.conf"), 0);
    make_file("tree/etc/resolv.conf", "own\n", 0644);
    launch = build_launch(LINES(TREE, "resolver"));
    CHECK_TEXT(read_text(ROOT "/etc/resolv.conf"), "own\n");
    un_launch_close(launch);
}

/* Checks that mounts on / and on usernsctl-verify are rejected, even through symbolic links in the
 * root filesystem. */
static void nothing_is_mounted_over_the_root_or_the_verifier(void)
{
    enter_inside();
    make_tree();
    CHECK_INT(symlink("open/..", "tree/top"), 0);
    CHECK_INT(symlink("/.usernsctl-verify", "tree/verifier"), 0);
    check_build_fails(LINES(TREE, "bind 1 /top ro"),
                      "/top leads to / in the sandbox, and nothing may be");
    CHECK_INT(err.step, UN_STEP_BIND);
    CHECK_TEXT(remedy, "choose another destination");
    check_build_fails(LINES(TREE, "mount /top empty"), "/top leads to / in");
    check_build_fails(LINES(TREE, "mount / other"), "/ leads to / in");
    check_build_fails(LINES(TREE, "bind 1 /verifier ro"),
                      "/verifier leads to /.usernsctl-verify in");
    check_build_fails(LINES(TREE, "mount /verifier empty"),
                      "/verifier leads to /.usernsctl-verify in");
}

static void private_files_are_hidden(void)
{
    enter_inside();
    make_tree();
    make_file("tree/etc/shadow", "secret\n", 0640);
    make_directory("tree/etc/private", 0750);
    make_file("tree/etc/private/key", "secret\n", 0644);
    make_directory("tree/etc/public", 0755);
    make_file("tree/etc/public/key", "secret\n", 0600);
    struct un_launch *launch =
        build_launch(LINES(TREE, "hide-private /etc", "hide-private /none", "hide-private /file"));
    CHECK_TEXT(read_text(ROOT "/etc/passwd"), "root\n");
    CHECK_TEXT(read_text(ROOT "/etc/shadow"), "");
    CHECK_TEXT(read_text(ROOT "/etc/public/key"), "");
    CHECK_INT(access(ROOT "/etc/private", F_OK), 0);
    CHECK_INT(access(ROOT "/etc/private/key", F_OK), -1);
    CHECK_TEXT(read_text("tree/etc/shadow"), "secret\n");
    un_launch_close(launch);
}

/* Mounts a tmpfs on /etc, with a file for each case that a snapshot of /etc distinguishes. */
static void make_etc(void)
{
    CHECK_OK(un_mount("test", "/etc", "tmpfs", 0, "mode=0755", &err), &err);
    make_file("/etc/public", "public\n", 0644);
    make_file("/etc/shadow", "secret\n", 0640);
    make_directory("/etc/private", 0700);
    make_file("/etc/private/key", "secret\n", 0644);
    make_directory("/etc/sub", 01755);
    make_file("/etc/sub/tool", "#!\n", 0755);
    CHECK_INT(symlink("sub/tool", "/etc/link"), 0);
    CHECK_INT(mkfifo("/etc/pipe", 0644), 0);
    make_file("/etc/large", "large\n", 0644);
    CHECK_INT(truncate("/etc/large", (1 << 20) + 1), 0);
}

static void check_etc(const struct un_launch *launch)
{
    char target[64] = "";
    CHECK_TEXT(read_text(ROOT "/etc/public"), "public\n");
    CHECK_TEXT(read_text(ROOT "/etc/shadow"), "");
    CHECK_INT(access(ROOT "/etc/shadow", F_OK), 0);
    CHECK_INT(access(ROOT "/etc/private", F_OK), 0);
    CHECK_INT(access(ROOT "/etc/private/key", F_OK), -1);
    CHECK_INT(mode_of(ROOT "/etc/sub"), 01755);
    CHECK_INT(mode_of(ROOT "/etc/sub/tool"), 0755);
    CHECK(readlink(ROOT "/etc/link", target, sizeof target) > 0);
    CHECK_TEXT(target, "sub/tool");
    CHECK_TEXT(read_text(ROOT "/etc/large"), "large\n");
    CHECK_INT(open(ROOT "/etc/large", O_WRONLY), -1);
    /* A bind mount of /etc shows a file that was created after the build, but a snapshot of /etc
     * does not. */
    make_file("/etc/later", "later\n", 0644);
    CHECK_INT(access(ROOT "/etc/later", F_OK), launch->is_root ? -1 : 0);
}

static void a_snapshot_has_public_files_only(void)
{
    enter_inside();
    make_etc();
    struct un_launch *launch =
        build_launch(LINES("scratch /tmp/scratch", "snapshot etc", "snapshot none"));
    CHECK(launch->is_root);
    check_etc(launch);
    CHECK_INT(access(ROOT "/etc/pipe", F_OK), -1);
    CHECK_INT(mode_of(ROOT "/etc/shadow"), 0640);
    un_launch_close(launch);
}

static void guarded_directories_depend_on_the_caller(void)
{
    enter_inside();
    make_etc();
    struct un_launch *launch = launch_of(&draft, LINES("scratch /tmp/scratch", "guarded etc"));
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    launch->is_root = false;
    CHECK_OK(un_launch_build(launch, NULL, &err), &err);
    check_etc(launch);
    un_launch_close(launch);
    CHECK_INT(umount2("/tmp/scratch", MNT_DETACH), 0);
    CHECK_INT(unlink("/etc/later"), 0);
    launch = build_launch(LINES("scratch /tmp/scratch", "guarded etc"));
    check_etc(launch);
    un_launch_close(launch);
}

static void a_home_is_hidden(void)
{
    enter_inside();
    make_tree();
    make_directory("tree/home", 0755);
    make_file("tree/home/secret", "secret\n", 0644);
    struct un_launch *launch =
        build_launch(LINES(TREE, "home /home", "home /var/lib/me", "home /file", "read-only"));
    CHECK_INT(access(ROOT "/home/secret", F_OK), -1);
    CHECK_INT(access(ROOT "/var/lib/me", F_OK), 0);
    CHECK_TEXT(read_text(ROOT "/file"), "content\n");
    un_launch_close(launch);
    CHECK_INT(umount2("/tmp/scratch", MNT_DETACH), 0);
    check_build_fails(LINES(TREE, "home /etc"), "the home directory /etc can't be hidden");
    CHECK_INT(err.step, UN_STEP_HOME);
    CHECK_HAS(remedy, "set HOME");
}

static void homes_in_the_params_are_hidden(void)
{
    const struct un_launch_params params = {.homes = LINES("/open/inner", "/none")};
    enter_inside();
    make_tree();
    make_file("tree/open/inner/secret", "secret\n", 0644);
    struct un_launch *launch = launch_of(&draft, LINES(TREE, "home-moment"));
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_OK(un_launch_build(launch, &params, &err), &err);
    CHECK_INT(access(ROOT "/open/inner/secret", F_OK), -1);
    CHECK_INT(access(ROOT "/none", F_OK), 0);
    un_launch_close(launch);
}

static void files_outside_the_root_are_created(void)
{
    enter_inside();
    make_tree();
    mode_t before = umask(027);
    struct un_launch *launch = build_launch(
        LINES("source follow /tmp/tree/file", "source follow /tmp/source", "scratch /tmp/scratch",
              "make log 0700", "make log/crash 0700", "make programs 0700",
              "tmpfs log/crash 1048576", "touch log/crash/@@", "discard log/boot.txt",
              "debug-log 1", "program 0", "program-link 0 programs/run"));
    CHECK_INT(umask(before), 027);
    CHECK_INT(mode_of(SCRATCH "/log"), 0700);
    CHECK_INT(access(SCRATCH "/log/crash/@", F_OK), 0);
    char target[64] = "";
    CHECK(readlink(SCRATCH "/log/boot.txt", target, sizeof target) > 0);
    CHECK_TEXT(target, "/dev/null");
    CHECK_TEXT(read_text(SCRATCH "/debug-log/data"), "data\n");
    CHECK_TEXT(read_text(SCRATCH "/programs/file"), "content\n");
    CHECK_TEXT(read_text(SCRATCH "/programs/run"), "content\n");
    un_launch_close(launch);
}

static void replaced_sources_are_detected(void)
{
    enter_inside();
    make_tree();
    struct un_launch *launch = launch_of(&draft, LINES(TREE));
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_INT(rename("tree", "away"), 0);
    make_directory("tree", 0755);
    CHECK_INT(un_launch_build(launch, NULL, &err), -1);
    CHECK_INT(err.errnum, ESTALE);
    CHECK_TEXT(un_launch_filename(launch), "/tmp/tree");
    un_launch_close(launch);
}

static void scratch_needs_an_existing_directory(void)
{
    enter_inside();
    make_file("file", "", 0644);
    CHECK_INT(symlink("scratch", "link"), 0);
    check_build_fails(LINES("scratch /tmp/link", "scratch /tmp/file", "scratch /tmp/none"),
                      "no directory is free for the run's tmpfs");
    CHECK_TEXT(remedy, "mkdir /mnt    # as root");
}

int main(void)
{
    static void (*const parts[])(void) = {
        programs_of_the_host_are_visible,
        a_tree_shows_its_files,
        a_bind_creates_its_mount_point,
        a_mount_may_lie_in_a_filesystem_of_gvisor,
        bind_failures_name_the_file,
        special_files_are_no_mount_points,
        resolv_conf_is_copied_to_the_link_target,
        nothing_is_mounted_over_the_root_or_the_verifier,
        private_files_are_hidden,
        a_snapshot_has_public_files_only,
        guarded_directories_depend_on_the_caller,
        a_home_is_hidden,
        homes_in_the_params_are_hidden,
        files_outside_the_root_are_created,
        replaced_sources_are_detected,
        scratch_needs_an_existing_directory,
    };
    need_user_namespaces();
    for (size_t i = 0; i < COUNT(parts); i++)
        check_in_child(parts[i]);
    check_no_child_left();
    return 0;
}
