/* Tests of opening a launch's sources, which are files of the host, and of checking that these
 * files are as the records "assume" of the launch say. */
#include "base/base.h"
#include "forked.h"
#include "inside.h"
#include "launch/launch.h"
#include "launched.h"
#include "needs.h"

static struct draft draft;
static struct un_error err;

static void opens(const char *const *lines, const char *path)
{
    struct un_launch *launch = launch_of(&draft, lines);
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_TEXT(launch->source[0].path, path);
    un_launch_close(launch);
}

static void refuses(const char *const *lines, int errnum, const char *cause, const char *part)
{
    int fds = count_fds();
    struct un_launch *launch = launch_of(&draft, lines);
    CHECK_INT(un_launch_open(launch, NULL, &err), -1);
    CHECK_INT(err.errnum, errnum);
    CHECK_HAS(err.detail, part);
    CHECK(cause ? err.cause && !strcmp(err.cause, cause) : !err.cause);
    const char *remedy = un_launch_remedy(launch);
    if (cause && !strcmp(cause, "launch-outdated") && launch->of_verb[UN_VERB_REMEDY])
        CHECK_HAS(remedy, "freeze it anew    # in an image without Python: ");
    un_launch_close(launch);
    CHECK_INT(count_fds(), fds);
}

static void links_of_the_caller_are_followed(void)
{
    enter_inside();
    make_directory("real", 0755);
    make_file("real/file", "", 0644);
    CHECK_INT(symlink("real", "one"), 0);
    CHECK_INT(symlink("/tmp/./one/../real/file", "two"), 0);
    CHECK_INT(symlink("three", "three"), 0);
    opens(LINES("source follow /tmp/two"), "/tmp/real/file");
    opens(LINES("source own /tmp/one/file"), "/tmp/real/file");
    opens(LINES("source exact /tmp/real//file"), "/tmp/real/file");
    opens(LINES("source follow /"), "/");
    opens(LINES("source follow /proc/self/../../tmp"), "/tmp");
    refuses(LINES("source exact /tmp/one/file"), 0, "launch-outdated",
            "/tmp/one/file does not exist");
    refuses(LINES("source exact /tmp/two"), 0, "launch-outdated", "/tmp/two is a symbolic link");
    refuses(LINES("source follow /tmp/three"), ELOOP, NULL, "/tmp/three");
    refuses(LINES("source follow /tmp/none"), 0, "launch-outdated", "/tmp/none does not exist");
    refuses(LINES("remedy freeze\\ it\\ anew", "source follow /tmp/real/file/x"), 0,
            "launch-outdated", "/tmp/real/file/x does not exist");
}

static void kernel_files_are_not_writable(void)
{
    static const char *const sources[] = {"/proc/self/attr", "/", "/tmp", "/tmp/a b"};
    char line[256], escaped[64];
    enter_inside();
    make_directory("a b", 0755);
    make_directory("plain", 0755);
    CHECK_OK(un_mount("test", "/tmp/a b", "devpts", 0, NULL, &err), &err);
    CHECK_OK(un_mount("test", "/tmp/plain", "tmpfs", 0, NULL, &err), &err);
    make_directory("plain/dir", 0755);
    for (size_t i = 0; i < COUNT(sources); i++) {
        const char *space = strchr(sources[i], ' ');
        snprintf(escaped, sizeof escaped, "%.*s%s%s",
                 space ? (int)(space - sources[i]) : (int)strlen(sources[i]), sources[i],
                 space ? "\\" : "", space ? space : "");
        snprintf(line, sizeof line, "source follow %s", escaped);
        refuses(LINES(line, "scratch /tmp/scratch", "bind 0 /x rw"), 0, "bind-writes-machine",
                "must not be writable in a sandbox");
        struct un_launch *launch =
            launch_of(&draft, LINES(line, "scratch /tmp/scratch", "bind 0 /x ro"));
        CHECK_OK(un_launch_open(launch, NULL, &err), &err);
        un_launch_close(launch);
    }
    opens(LINES("source follow /tmp/plain", "scratch /tmp/scratch", "bind 0 /x rw"), "/tmp/plain");
    opens(LINES("source follow /dev/null", "scratch /tmp/scratch", "bind 0 /x rw"), "/dev/null");
}

/* Checks that another user's symbolic link is not followed. Only root can give a link to another
 * user. */
static void links_of_other_users_are_not_followed(void)
{
    CHECK_INT(unshare(CLONE_NEWNS), 0);
    CHECK_OK(un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, &err), &err);
    CHECK_OK(un_mount("test", "/tmp", "tmpfs", 0, "mode=0755", &err), &err);
    CHECK_INT(chdir("/tmp"), 0);
    make_file("file", "", 0644);
    CHECK_INT(symlink("file", "link"), 0);
    CHECK_INT(symlink("/etc/..", "up"), 0);
    CHECK_INT(lchown("link", 12345, 12345), 0);
    CHECK_INT(lchown("up", 12345, 12345), 0);
    refuses(LINES("source follow /tmp/link"), 0, "foreign-link",
            "the symbolic link /tmp/link belongs to uid 12345");
    refuses(LINES("source follow /tmp/up/tmp/file"), 0, "foreign-link", "/tmp/up belongs");
    opens(LINES("source own /tmp/link"), "/tmp/file");
}

static void given_descriptors_are_used(void)
{
    enter_inside();
    make_file("file", "", 0644);
    make_file("other", "", 0644);
    int fds[] = {open("file", O_PATH | O_CLOEXEC), -1};
    struct un_launch *launch =
        launch_of(&draft, LINES("source own /tmp/never", "source own /tmp/other"));
    CHECK_OK(un_launch_open(launch, fds, &err), &err);
    CHECK_TEXT(launch->source[0].path, "/tmp/file");
    CHECK_TEXT(launch->source[1].path, "/tmp/other");
    un_launch_close(launch);
    CHECK(fcntl(fds[0], F_GETFD) >= 0);
}

/* Writes a record "assume" about the first source, /tmp/file, to `line`. The size in the record
 * differs from the size of the file by `size`. The mode in the record differs from the mode of the
 * file by the bits `mode`. */
static void write_assumption(char line[256], long size, unsigned mode)
{
    struct stat status;
    char sum[UN_CONTENT_SUM_ROOM];
    un_auto_close int fd = open("/tmp/file", O_PATH | O_CLOEXEC);
    CHECK_INT(fstat(fd, &status), 0);
    CHECK_INT(un_content_sum(fd, sum), 0);
    snprintf(line, 256, "assume 0 %ld %o %s", (long)status.st_size + size, status.st_mode ^ mode,
             sum);
}

static void programs_are_recognised_by_content(void)
{
    static const char remedy[] = "remedy freeze\\ it\\ anew";
    static const char source[] = "source own /tmp/file";
    const struct timespec times[2] = {{0, 0}, {0, 0}};
    char line[256];
    enter_inside();
    make_file("file", "12345", 0644);
    write_assumption(line, 0, 0);
    opens(LINES(remedy, source, line), "/tmp/file");
    /* The modification time may differ, because image builders set the times of all files to a
     * fixed value. */
    CHECK_INT(utimensat(AT_FDCWD, "file", times, 0), 0);
    opens(LINES(remedy, source, line), "/tmp/file");
    write_assumption(line, 1, 0);
    refuses(LINES(remedy, source, line), 0, "launch-outdated", "has 5 bytes, but had 6");
    write_assumption(line, 0, 0100);
    refuses(LINES(remedy, source, line), 0, "launch-outdated", "the mode 100644, but had 100744");
    write_assumption(line, 0, 0);
    make_file("other", "12346", 0644);
    CHECK_INT(rename("other", "file"), 0);
    CHECK_INT(utimensat(AT_FDCWD, "file", times, 0), 0);
    refuses(LINES(remedy, source, line), 0, "launch-outdated", "another content of the same size");
}

static void other_versions_are_reported(void)
{
    static const char bytes[] = "usernsctl-launch\0"
                                "2\0"
                                "0.0.1\0"
                                "remedy\0freeze it anew\0"
                                "end";
    struct un_launch *launch;
    CHECK_OK(un_launch_parse(bytes, sizeof bytes, &launch, &err), &err);
    CHECK_INT(un_launch_open(launch, NULL, &err), -1);
    CHECK_TEXT(err.cause, "launch-outdated");
    CHECK_HAS(err.detail, "frozen by usernsctl 0.0.1; this is usernsctl " USERNSCTL_VERSION);
    CHECK_HAS(un_launch_remedy(launch), "freeze it anew    # in an image without Python: ");
    un_launch_close(launch);
}

static void the_oom_score_is_set(void)
{
    struct un_launch *launch = launch_of(&draft, LINES("oom-score 777"));
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_TEXT(read_text("/proc/self/oom_score_adj"), "777\n");
    un_launch_close(launch);
}

int main(void)
{
    static void (*const parts[])(void) = {
        links_of_the_caller_are_followed,
        given_descriptors_are_used,
        programs_are_recognised_by_content,
        kernel_files_are_not_writable,
        the_oom_score_is_set,
    };
    other_versions_are_reported();
    need_user_namespaces();
    for (size_t i = 0; i < COUNT(parts); i++)
        check_in_child(parts[i]);
    if (geteuid() == 0)
        check_in_child(links_of_other_users_are_not_followed);
    check_no_child_left();
    return 0;
}
