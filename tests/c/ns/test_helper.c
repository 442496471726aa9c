/* Tests of running newuidmap and newgidmap: their arguments, and each kind of failure. */
#include "forked.h"
#include "seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { PATIENCE_MS = 20000 };

/* A directory with scripts that replace newuidmap and newgidmap, and a plan that needs both. */
struct place {
    char dir[64];
    /* paths of the files to which the scripts write; $LOG in a script is the path of that script's
     * file */
    char log[2][80];
    struct un_plan plan;
};

static struct place place;
static struct un_error err;

static void put_script(struct place *place, int kind, const char *body)
{
    char path[96];
    snprintf(path, sizeof path, "%s/%s", place->dir, kind == UN_UID ? "newuidmap" : "newgidmap");
    strcpy(place->plan.helper[kind], path);
    FILE *file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fprintf(file, "#!/bin/sh\nLOG=%s\n%s\n", place->log[kind], body) > 0);
    CHECK_INT(fclose(file), 0);
    CHECK_INT(chmod(path, 0755), 0);
}

static void make_place(struct place *place, const char *uid_body, const char *gid_body)
{
    memset(place, 0, sizeof *place);
    strcpy(place->dir, "/tmp/usernsctl-test-XXXXXX");
    CHECK(mkdtemp(place->dir) != NULL);
    place->plan.helper_timeout_ms = PATIENCE_MS;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        char path[80];
        snprintf(path, sizeof path, "%s/log%d", place->dir, kind);
        strcpy(place->log[kind], path);
        place->plan.writer[kind] = UN_WRITER_HELPER;
        place->plan.map.of[kind].len = 1;
        place->plan.map.of[kind].extent[0] = (struct un_extent){0, 100000, 65536};
    }
    put_script(place, UN_UID, uid_body);
    put_script(place, UN_GID, gid_body);
}

static void remove_place(const struct place *place)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        CHECK_INT(unlink(place->plan.helper[kind]), 0);
        CHECK(unlink(place->log[kind]) == 0 || errno == ENOENT);
    }
    CHECK_INT(rmdir(place->dir), 0);
}

/* Runs the helpers that write the maps of a plan, with this process as the target. */
static int call(struct place *place, struct un_error *err)
{
    int dir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(dir >= 0);
    int result = un_run_helpers(dir, &place->plan, err);
    close(dir);
    check_no_child_left();
    return result;
}

static void read_log(const struct place *place, int kind, char *text, size_t size)
{
    FILE *file = fopen(place->log[kind], "re");
    CHECK(file != NULL);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static void helpers_get_the_pid_of_the_target_and_the_map(void)
{
    char text[128], target[128];
    const char *body = "echo $* >$LOG";
    make_place(&place, body, body);
    place.plan.map.of[UN_UID].len = 2;
    place.plan.map.of[UN_UID].extent[1] = (struct un_extent){65536, 1000, 1};
    CHECK_OK(call(&place, &err), &err);
    snprintf(target, sizeof target, "%d 0 100000 65536 65536 1000 1\n", (int)getpid());
    read_log(&place, UN_UID, text, sizeof text);
    CHECK_TEXT(text, target);
    snprintf(target, sizeof target, "%d 0 100000 65536\n", (int)getpid());
    read_log(&place, UN_GID, text, sizeof text);
    CHECK_TEXT(text, target);
    remove_place(&place);
}

static void helpers_write_only_their_maps(void)
{
    make_place(&place, "exit 1", "echo $# >$LOG");
    place.plan.writer[UN_UID] = UN_WRITER_PARENT;
    CHECK_OK(call(&place, &err), &err);
    CHECK_INT(access(place.log[UN_GID], F_OK), 0);

    place.plan.writer[UN_GID] = UN_WRITER_SELF;
    CHECK_INT(unlink(place.log[UN_GID]), 0);
    CHECK_OK(call(&place, &err), &err);
    CHECK_INT(access(place.log[UN_GID], F_OK), -1);
    remove_place(&place);
}

static void a_hundred_extents_are_three_hundred_arguments(void)
{
    char text[32];
    const char *body = "for last; do :; done; echo $# $2 ${299} $last >$LOG";
    make_place(&place, body, "true");
    struct un_map *map = &place.plan.map.of[UN_UID];
    map->len = 100;
    for (uint32_t i = 0; i < map->len; i++)
        map->extent[i] = (struct un_extent){7 + 10 * i, 4000000000 + 10 * i, 9};
    CHECK_OK(call(&place, &err), &err);
    read_log(&place, UN_UID, text, sizeof text);
    CHECK_TEXT(text, "301 7 997 9\n");

    map->len = UN_MAP_MAX;
    for (uint32_t i = 0; i < map->len; i++)
        map->extent[i] = (struct un_extent){4000000000 + i, 4100000000 + i, 1};
    CHECK_OK(call(&place, &err), &err);
    read_log(&place, UN_UID, text, sizeof text);
    CHECK_HAS(text, "1021 4000000000 ");
    remove_place(&place);
}

static void each_failure_has_its_cause(void)
{
    static const struct {
        const char *body;
        const char *cause;
        const char *says;
    } cases[] = {
        {"echo 'uid range [0-1) -> [5-6) not allowed' >&2; echo more >&2; exit 1", "helper-failed",
         "exited with status 1: uid range [0-1) -> [5-6) not allowed"},
        {"exit 255", "helper-failed", "exited with status 255"},
        {"head -c 10000000 /dev/zero | tr '\\0' x; exit 1", "helper-failed", ": xxxxxxxxxx"},
        {"kill -SEGV $$", "helper-killed", "was killed by signal 11"},
        {"kill -SYS $$", "seccomp-denies-helper", "was killed by signal 31"},
        {"echo sorry; kill -KILL $$", "helper-killed", "was killed by signal 9: sorry"},
        {"kill -STOP $$", "helper-stopped", "was stopped by signal 19"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int kind = UN_UID; kind <= UN_GID; kind++) {
            make_place(&place, kind == UN_UID ? cases[i].body : "true",
                       kind == UN_GID ? cases[i].body : "true");
            CHECK_INT(call(&place, &err), -1);
            CHECK_INT(err.step, UN_STEP_HELPER);
            CHECK_TEXT(err.cause, cases[i].cause);
            CHECK(un_cause_find(err.cause, &(struct un_cause){0}));
            CHECK_HAS(err.detail, place.plan.helper[kind]);
            CHECK_HAS(err.detail, cases[i].says);
            CHECK(strchr(err.detail, '\n') == NULL);
            remove_place(&place);
        }
}

/* Runs helpers with a seccomp filter that denies openat2(2), as older filters do. The newuidmap of
 * Debian's shadow 1:4.17.4-2+deb13u1 opens the map by openat2(2). */
static void call_below_a_filter(void)
{
    static const struct {
        const char *body;
        const char *cause;
    } cases[] = {
        {"echo 'newuidmap: open of uid_map failed: Operation not permitted'; exit 1",
         "seccomp-denies-helper"},
        {"echo 'newuidmap: open of uid_map failed: Function not implemented'; exit 1",
         "seccomp-denies-helper"},
        {"echo 'newuidmap: write to uid_map failed: Operation not permitted'; exit 1",
         "helper-failed"},
        {"echo 'newuidmap: uid range [0-1) -> [5-6) not allowed'; exit 1", "helper-failed"},
    };
    refuse_call(SYS_openat2, EPERM);
    for (size_t i = 0; i < COUNT(cases); i++) {
        make_place(&place, cases[i].body, "true");
        CHECK_INT(call(&place, &err), -1);
        CHECK_TEXT(err.cause, cases[i].cause);
        remove_place(&place);
    }
}

/* Runs helpers with a seccomp filter that denies pread64(2), which the dynamic loader needs. */
static void call_without_pread64(void)
{
    refuse_call(SYS_pread64, EPERM);
    make_place(&place, "exit 1", "true");
    CHECK_INT(call(&place, &err), -1);
    CHECK_TEXT(err.cause, "seccomp-denies-helper");
    CHECK_HAS(err.detail, "newuidmap exited with status ");
    CHECK_HAS(err.detail, "; a seccomp filter denies pread64(2)");
    remove_place(&place);
}

static void a_filter_that_denies_a_helpers_call_is_named(void)
{
    check_in_child(call_below_a_filter);
    check_in_child(call_without_pread64);
}

static void a_helper_that_prints_its_usage_is_run_once(void)
{
    char text[64];
    make_place(&place, "echo x >>$LOG; echo 'usage: newuidmap <pid> <uid> ...'; exit 1", "true");
    CHECK_INT(call(&place, &err), -1);
    CHECK_TEXT(err.cause, "helper-failed");
    CHECK_HAS(err.detail, "exited with status 1: usage: newuidmap <pid> <uid>");
    read_log(&place, UN_UID, text, sizeof text);
    CHECK_TEXT(text, "x\n");
    remove_place(&place);
}

static void helpers_report_their_status_though_sigchld_is_ignored(void)
{
    void (*before)(int) = signal(SIGCHLD, SIG_IGN);
    make_place(&place, "true", "true");
    CHECK_OK(call(&place, &err), &err);
    put_script(&place, UN_GID, "echo sorry; exit 1");
    CHECK_INT(call(&place, &err), -1);
    CHECK_TEXT(err.cause, "helper-failed");
    CHECK_HAS(err.detail, "newgidmap exited with status 1: sorry");
    remove_place(&place);
    signal(SIGCHLD, before);
}

static void ignore_children(int signal_number)
{
    (void)signal_number;
    signal(SIGCHLD, SIG_IGN);
}

static int call_and_ignore_children(void *arg)
{
    signal(SIGUSR1, ignore_children);
    /* The filter makes ioctl(2) fail, so that PIDFD_GET_INFO can't provide the exit status of a
     * reaped child, as before Linux 6.15. */
    refuse_call(SYS_ioctl, ENOTTY);
    CHECK_INT(call(arg, &err), -1);
    CHECK_TEXT(err.cause, "helper-status-lost");
    CHECK(un_cause_find(err.cause, &(struct un_cause){0}));
    return 0;
}

static void a_helper_without_a_known_status_has_failed(void)
{
    make_place(&place, "true",
               "kill -USR1 $PPID; until grep -q 'SigIgn:.*1....$' /proc/$PPID/status; do :; done");
    CHECK_INT(forked(call_and_ignore_children, &place), 0);
    remove_place(&place);
}

static void a_helper_that_hangs_is_ended(void)
{
    make_place(&place, "true", "echo asking; exec sleep 1000");
    /* A slow host may reach the timeout before the script has printed anything. Retry with a longer
     * timeout. */
    for (int ms = 300; ms <= PATIENCE_MS; ms *= 5) {
        place.plan.helper_timeout_ms = ms;
        CHECK_INT(call(&place, &err), -1);
        if (strstr(err.detail, "asking"))
            break;
    }
    CHECK_TEXT(err.cause, "helper-hung");
    CHECK_HAS(err.detail, "newgidmap was killed after a timeout: asking");
    remove_place(&place);
}

static void missing_helpers_are_reported(void)
{
    make_place(&place, "true", "true");
    CHECK_INT(unlink(place.plan.helper[UN_GID]), 0);
    CHECK_INT(call(&place, &err), -1);
    CHECK_TEXT(err.cause, "helper-failed");
    CHECK_HAS(err.detail, place.plan.helper[UN_GID]);
    put_script(&place, UN_GID, "true");
    remove_place(&place);
}

/* Checks that the helpers run in parallel. Each helper waits for the other, so they would time out
 * if they ran one after the other. */
static void both_run_at_the_same_time(void)
{
    char body[2][192];
    make_place(&place, "true", "true");
    const char *uid = place.log[UN_UID], *gid = place.log[UN_GID];
    CHECK_INT(mkfifo(uid, 0600), 0);
    CHECK_INT(mkfifo(gid, 0600), 0);
    snprintf(body[UN_UID], sizeof body[UN_UID], "read x <%s; echo b >%s", uid, gid);
    snprintf(body[UN_GID], sizeof body[UN_GID], "echo a >%s; read x <%s", uid, gid);
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        put_script(&place, kind, body[kind]);
    CHECK_OK(call(&place, &err), &err);
    remove_place(&place);
}

static int call_with_stdio_closed(void *arg)
{
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    int dir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir != 0 || un_run_helpers(dir, &((struct place *)arg)->plan, &err))
        return 1;
    return faccessat(dir, "uid_map", F_OK, 0) || close(dir) || fcntl(1, F_GETFD) != -1 ||
           fcntl(3, F_GETFD) != -1;
}

/* Checks that helpers run if descriptors 0 to 2 of this process are closed. The target's /proc
 * directory then gets descriptor 0, which must still be open afterwards. */
static void helpers_run_while_our_standard_streams_are_closed(void)
{
    char text[64];
    const char *body = "read x; echo \"<$x>\" $(readlink /proc/self/fd/0) >$LOG";
    make_place(&place, body, body);
    CHECK_INT(forked(call_with_stdio_closed, &place), 0);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        read_log(&place, kind, text, sizeof text);
        CHECK_INT(strncmp(text, "<> pipe:[", 9), 0);
    }
    remove_place(&place);
}

int main(void)
{
    helpers_get_the_pid_of_the_target_and_the_map();
    a_filter_that_denies_a_helpers_call_is_named();
    a_helper_that_prints_its_usage_is_run_once();
    helpers_write_only_their_maps();
    a_hundred_extents_are_three_hundred_arguments();
    each_failure_has_its_cause();
    helpers_report_their_status_though_sigchld_is_ignored();
    a_helper_without_a_known_status_has_failed();
    a_helper_that_hangs_is_ended();
    missing_helpers_are_reported();
    both_run_at_the_same_time();
    helpers_run_while_our_standard_streams_are_closed();
    return 0;
}
