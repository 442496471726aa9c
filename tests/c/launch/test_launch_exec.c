/* Tests of the last steps of a launch: writing config.json, dropping privileges and execve(2). */
#include "forked.h"
#include "inside.h"
#include "launch/launch.h"
#include "launched.h"
#include "needs.h"

#include <signal.h>

static struct draft draft;
static struct un_error err;

/* The lines of a launch that executes a shell in place of usernsctl-watch. The launch creates its
 * files in /tmp/scratch. */
#define SHELL                                                                                      \
    "source own /bin/sh", "scratch /tmp/scratch", "make bundle 0700", "make programs 0700",        \
        "program-link 0 programs/shell"

static int config_text(const char *const *lines, const struct un_launch_params *params,
                       struct un_text *text, struct un_error *err)
{
    static struct un_idmap maps;
    maps.of[UN_UID].len = 2;
    maps.of[UN_UID].extent[0] = (struct un_extent){0, 1000, 1};
    maps.of[UN_UID].extent[1] = (struct un_extent){1, 100000, 65536};
    maps.of[UN_GID].len = 1;
    maps.of[UN_GID].extent[0] = (struct un_extent){0, 1000, 1};
    struct un_launch *launch = launch_of(&draft, lines);
    strcpy(launch->marks.scratch, "/mnt/usernsctl");
    int failed = un_config_text(launch, params, &maps, text, err);
    un_launch_close(launch);
    return failed;
}

static void config_is(const char *const *lines, const struct un_launch_params *params,
                      const char *want)
{
    struct un_text text = {0};
    CHECK_OK(config_text(lines, params, &text, &err), &err);
    CHECK(text.length == strlen(want));
    CHECK(!memcmp(text.bytes, want, text.length));
    un_text_free(&text);
}

static void config_is_refused(const char *const *lines, const struct un_launch_params *params,
                              const char *part)
{
    struct un_text text = {0};
    CHECK_INT(config_text(lines, params, &text, &err), -1);
    CHECK_HAS(err.detail, part);
    un_text_free(&text);
}

static void json_fragments_are_joined(void)
{
    const struct un_launch_params params = {
        .args = LINES("a \"quoted\"\\", "", "\n\x1f\x7f", "\xc3\xa4\xf0\x9f\x98\x80"),
        .env = LINES("A=1", "B="),
        .cwd = "/data",
        .hostname = "box",
    };
    config_is(LINES("scratch /mnt", "json [", "json-args", "json ]"), &params,
              "[\"a \\\"quoted\\\"\\\\\", \"\", \"\\u000a\\u001f\x7f\", "
              "\"\xc3\xa4\xf0\x9f\x98\x80\"]");
    config_is(LINES("scratch /mnt", "json-env", "json ;", "json-cwd", "json ;", "json-hostname",
                    "json ;", "json-root"),
              &params, "\"A=1\", \"B=\";\"/data\";\"box\";\"/mnt/usernsctl/root\"");
    config_is(LINES("scratch /mnt", "json-uid-map", "json-several several"), &params,
              "{\"containerID\": 0, \"hostID\": 0, \"size\": 1}, "
              "{\"containerID\": 1, \"hostID\": 1, \"size\": 65536}several");
    config_is(LINES("scratch /mnt", "json-gid-map"), &params,
              "{\"containerID\": 0, \"hostID\": 0, \"size\": 1}");
    config_is(LINES("scratch /mnt", "json-env", "json-cwd"),
              &(struct un_launch_params){.cwd = NULL}, "\"/\"");
}

static void ids_and_terminal_come_from_the_params(void)
{
    const struct un_launch_params mapped = {.args = LINES("id"), .id = {7, 0}, .terminal = true};
    const struct un_launch_params other = {.args = LINES("id"), .id = {70000, 5}};
    config_is(LINES("scratch /mnt", "json-user", "json ;", "json-args", "json ;", "json-terminal"),
              &mapped, "{\"uid\": 7, \"gid\": 0};\"id\";true");
    /* For a command with ids other than 0, usernsctl-verify must receive the option --as, so that
     * it maps these ids in gVisor. */
    config_is(LINES("scratch /mnt", "json-user", "json ;", "json-args", "json ;", "json-terminal"),
              &other, "{\"uid\": 0, \"gid\": 0};\"--as\", \"70000\", \"5\", \"id\";false");
}

static void the_command_ignores_terminating_signals_like_the_caller(void)
{
    const struct un_launch_params params = {.args = LINES("id")};
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    config_is(
        LINES("source own /bin/true", "scratch /mnt", "file 0 " UN_VERIFIER_INSIDE, "json-args"),
        &params, "\"--ignore=1\", \"id\"");
    config_is(LINES("scratch /mnt", "json-args"), &params, "\"id\"");
    signal(SIGHUP, SIG_DFL);
    signal(SIGUSR1, SIG_DFL);
}

static void ids_are_mapped_or_can_be_mapped_inside(void)
{
    static const char *const verified[] = {"source own /bin/true", "scratch /mnt",
                                           "file 0 " UN_VERIFIER_INSIDE, NULL};
    static struct un_idmap maps = {
        .of = {{.len = 1, .extent = {{0, 1000, 1}}}, {.len = 1, .extent = {{0, 1000, 1}}}}};
    const struct un_launch_params root = {.id = {0, 0}}, other = {.id = {0, 5}};
    struct draft draft, bare;
    struct un_launch *launch = launch_of(&draft, verified);
    struct un_launch *unproven = launch_of(&bare, LINES("scratch /mnt"));
    CHECK_OK(un_config_check_user(unproven, &root, &maps, &err), &err);
    CHECK_OK(un_config_check_user(launch, &other, &maps, &err), &err);
    CHECK_INT(un_config_check_user(unproven, &other, &maps, &err), -1);
    CHECK_TEXT(err.cause, "inside-id-unmapped");
    maps.of[UN_UID].extent[0].count = 2;
    CHECK_INT(un_config_check_user(launch, &other, &maps, &err), -1);
    un_launch_close(launch);
    un_launch_close(unproven);
}

static void invalid_utf8_is_reported_by_its_place(void)
{
    static const char *const broken[] = {
        "\xff", "a\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82\"", "\x80"};
    for (size_t i = 0; i < COUNT(broken); i++) {
        const struct un_launch_params params = {.args = LINES("true", broken[i]), .cwd = broken[i]};
        config_is_refused(LINES("scratch /mnt", "json-args"), &params,
                          "argument 1 of the command is not UTF-8");
        config_is_refused(LINES("scratch /mnt", "json-cwd"), &params, "$.process.cwd has a byte");
    }
    const struct un_launch_params secret = {.env = LINES("A=1", "TOKEN=secret\xff")};
    config_is_refused(LINES("scratch /mnt", "json-env"), &secret, "$.process.env[1] has a byte");
    config_is_refused(LINES("scratch /mnt", "json-args"), &secret, "no command was given");
}

static struct un_launch *build_launch(struct draft *draft, const char *const *lines)
{
    struct un_launch *launch = launch_of(draft, lines);
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_OK(un_launch_build(launch, NULL, &err), &err);
    return launch;
}

/* Executes a shell that prints its arguments, privileges and descriptors to the descriptor *arg. */
static int become_shell(void *arg)
{
    static const char script[] =
        "echo args \"$*\" from $FROM; ls -m /proc/$$/fd;"
        " cat \"$1/bundle/config.json\"; echo; grep -E '^(CapBnd|NoNewPrivs|Seccomp:)' "
        "/proc/self/status;"
        " umask; pwd; grep flags /proc/self/fdinfo/2; readlink /proc/self/fd/0";
    static const char *const lines[] = {
        SHELL,
        "json {",
        "json-args",
        "json }",
        "no-new-privs",
        "drop-bounding",
        "no-membarrier",
        "runsc-env FROM=launch",
        "runsc-env PATH=/bin:/usr/bin",
        "watch @s/programs/shell",
        "watch -c",
        NULL,
    };
    struct un_launch *launch;
    const struct un_launch_params params = {.args = LINES("true", "it")};
    enter_inside();
    write_draft(&draft, lines);
    add_line(&draft, "watch");
    add_word(&draft, script);
    add_line(&draft, "watch sh watch @s watch --id=@@@i end");
    CHECK_OK(un_launch_parse(draft.bytes, draft.size, &launch, &err), &err);
    CHECK_OK(un_launch_open(launch, NULL, &err), &err);
    CHECK_OK(un_launch_build(launch, NULL, &err), &err);
    int file = open("/tmp/log", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK_INT(write(file, "before\n", 7), 7);
    /* dup2(2) clears close-on-exec, so un_launch_exec() itself must ensure that the shell does not
     * inherit descriptor 100. */
    CHECK_INT(dup2(*(int *)arg, 1), 1);
    CHECK_INT(dup2(file, 2), 2);
    CHECK_INT(fcntl(file, F_DUPFD, 100), 100);
    close(0);
    un_launch_exec(launch, &params, &err);
    CHECK_OK(-1, &err);
    return 1;
}

static void the_watcher_gets_its_arguments_and_descriptors(void)
{
    char text[8192];
    int ends[2];
    size_t length = 0;
    CHECK_INT(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(become_shell(&ends[1]));
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = '\0';
    close(ends[0]);
    CHECK_INT(wait_for(pid), 0);
    CHECK_HAS(text, "args /tmp/scratch/usernsctl --id=@");
    CHECK_HAS(text, " from launch\n");
    CHECK_HAS(text, "{\"true\", \"it\"}\n");
    CHECK_HAS(text, "NoNewPrivs:\t1\n");
    CHECK_HAS(text, "Seccomp:\t2\n");
    /* The bounding set consists of CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_ADMIN and
     * CAP_SETFCAP. */
    CHECK_HAS(text, "CapBnd:\t00000000802400c0\n");
    CHECK_HAS(text, "0077\n/\n");
    /* The flags of standard output are O_WRONLY and O_APPEND. */
    CHECK_HAS(text, "2001\n/dev/null\n");
    /* Only the descriptors 0 to 2, and the descriptor by which the shell lists them, are open. */
    int fds = 0; /* the number of commas in the list of descriptors */
    for (const char *at = strchr(text, '\n') + 1; *at != '\n'; at++)
        fds += *at == ',';
    CHECK_INT(fds, 3);
}

static void failures_leave_no_descriptors(void)
{
    enter_inside();
    const struct un_launch_params params = {.args = LINES("true")};
    struct un_launch *launch = build_launch(&draft, LINES(SHELL, "json-args", "watch /none"));
    int fds = count_fds();
    CHECK_INT(un_launch_exec(launch, &params, &err), -1);
    CHECK_INT(err.step, UN_STEP_RUNSC);
    CHECK_INT(err.errnum, ENOENT);
    CHECK_TEXT(err.detail, "/none");
    CHECK_TEXT(un_launch_filename(launch), "/none");
    CHECK_INT(count_fds(), fds);
    un_launch_close(launch);
    CHECK_INT(umount2("/tmp/scratch", MNT_DETACH), 0);
    launch = build_launch(&draft, LINES("scratch /tmp/scratch"));
    CHECK_INT(un_launch_exec(launch, &params, &err), -1);
    CHECK_HAS(err.detail, "no \"watch\" record");
    un_launch_close(launch);
}

static void covered_programs_are_detected(void)
{
    static const char *const nothing[] = {NULL};
    const struct un_launch_params params = {.args = nothing, .env = nothing, .homes = nothing};
    enter_inside();
    make_file("program", "#!/bin/sh\n", 0755);
    struct un_launch *launch =
        build_launch(&draft, LINES("source own /tmp/program", "scratch /tmp/scratch",
                                   "program-path 0", "watch /bin/true"));
    CHECK_INT(unlink("program"), 0);
    make_file("program", "#!/bin/sh\n", 0755);
    CHECK_INT(un_launch_exec(launch, &params, &err), -1);
    CHECK_INT(err.errnum, ESTALE);
    CHECK_TEXT(err.detail, "/tmp/program");
    un_launch_close(launch);
}

int main(void)
{
    json_fragments_are_joined();
    ids_and_terminal_come_from_the_params();
    the_command_ignores_terminating_signals_like_the_caller();
    ids_are_mapped_or_can_be_mapped_inside();
    invalid_utf8_is_reported_by_its_place();
    need_user_namespaces();
    the_watcher_gets_its_arguments_and_descriptors();
    check_in_child(failures_leave_no_descriptors);
    check_in_child(covered_programs_are_detected);
    check_no_child_left();
    return 0;
}
