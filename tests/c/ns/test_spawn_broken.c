/* Tests of failures of usernsctl-child before the execve(2) of the command: which error un_spawn()
 * reports, and that no process is left. */
#include "check.h"
#include "needs.h"
#include "seccomp.h"
#include "spawned.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static struct un_spawn spawn;

/* Prepares a command that needs usernsctl-child, but no new namespaces. */
static void init_inside(struct un_spawn *spawn)
{
    static const char *const argv[] = {"true", NULL};
    init_command(spawn, argv);
    spawn->setup.no_new_privs = true;
}

static void check_fails(const struct un_spawn *spawn, const char *cause, const char *says)
{
    struct un_error err;
    pid_t pid;
    int pidfd;
    CHECK_INT(un_spawn(spawn, &pid, &pidfd, &err), -1);
    CHECK_INT(err.step, UN_STEP_CLONE);
    CHECK_HAS(err.detail, says);
    CHECK(cause ? err.cause != NULL : err.cause == NULL);
    if (cause)
        CHECK_TEXT(err.cause, cause);
    check_no_child_left();
}

/* Writes a script with the content `body`, which is used in place of usernsctl-child. Stores its
 * path in `path`. */
static void make_script(char path[64], const char *body)
{
    strcpy(path, "/tmp/usernsctl-test-XXXXXX");
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    CHECK(dprintf(fd, "#!/bin/sh\n%s\n", body) > 0);
    CHECK_INT(fchmod(fd, 0755), 0);
    close(fd);
}

/* Checks the error if the child is killed before or after the parent has confirmed that it has
 * received its end of the socket for messages. */
static void a_child_that_is_killed(void)
{
    static const char *const bodies[] = {"kill -KILL $$", "sleep 0.05; kill -KILL $$"};
    struct un_namespace ns;
    struct un_error err;
    struct un_plan plan;
    char path[64];
    plan_own_ids(0, 0, &plan);
    for (size_t i = 0; i < COUNT(bodies); i++) {
        make_script(path, bodies[i]);
        init_inside(&spawn);
        spawn.child = path;
        for (int turn = 0; turn < 20; turn++) {
            check_fails(&spawn, "child-killed", "killed by signal 9 before the command ran");
            CHECK_INT(un_namespace_create(&plan, 0, path, &ns, &err), -1);
            CHECK_TEXT(err.cause, "child-killed");
            CHECK_HAS(err.detail, "killed by signal 9");
            check_no_child_left();
        }
        CHECK_INT(unlink(path), 0);
    }
}

static void a_child_that_exits(void)
{
    char path[64];
    make_script(path, "exit 3");
    init_inside(&spawn);
    spawn.child = path;
    for (int turn = 0; turn < 20; turn++)
        check_fails(&spawn, NULL, "the child ended before the command ran");
    CHECK_INT(unlink(path), 0);
}

/* Checks that the parent kills a child that is stopped. Root in the namespaces that the child
 * enters can stop the child. */
static void a_child_that_is_stopped(void)
{
    char path[64];
    make_script(path, "kill -STOP $$");
    init_inside(&spawn);
    spawn.child = path;
    spawn.start_timeout_ms = 300;
    check_fails(&spawn, "start-timeout", "stopped by signal 19");
    CHECK_INT(unlink(path), 0);
}

static void a_child_that_hangs(void)
{
    char path[64];
    make_script(path, "exec sleep 1000");
    init_inside(&spawn);
    spawn.child = path;
    spawn.start_timeout_ms = 300;
    check_fails(&spawn, "start-timeout", "within 0.3 s");
    /* A timeout of 0 has already expired when the child starts. */
    spawn.start_timeout_ms = 0;
    check_fails(&spawn, "start-timeout", "within 0 s");
    CHECK_INT(unlink(path), 0);
}

static void a_start_without_a_time_limit(void)
{
    init_inside(&spawn);
    CHECK_INT(spawn.start_timeout_ms, UN_START_TIMEOUT_MS);
    spawn.start_timeout_ms = -1;
    CHECK_INT(status_of(&spawn), 0);
}

static void with_prctl_lethal(void)
{
    init_inside(&spawn);
    filter_argument(SYS_prctl, 0, PR_SET_DUMPABLE, SECCOMP_RET_KILL_PROCESS);
    for (int turn = 0; turn < 50; turn++)
        check_fails(&spawn, "seccomp-denies-call", "killed by signal 31");
}

/* Checks the error if a seccomp filter kills the child before it can execute usernsctl-child. */
static void with_sendmsg_lethal(void)
{
    init_inside(&spawn);
    filter_call(SYS_sendmsg, SECCOMP_RET_KILL_PROCESS);
    check_fails(&spawn, "seccomp-denies-call", "killed by signal 31");
}

/* Checks the error if a seccomp filter kills the second child, which runs in the new PID
 * namespace. */
static int with_chdir_lethal(void *arg)
{
    init_inside(&spawn);
    spawn.plan = arg;
    spawn.flags = un_ns_flag(UN_NS_PID);
    spawn.setup.cwd = "/";
    filter_call(SYS_chdir, SECCOMP_RET_KILL_PROCESS);
    for (int turn = 0; turn < 20; turn++)
        check_fails(&spawn, "seccomp-denies-call", "killed by signal 31");
    return 0;
}

/* Checks the error if recvmsg(2) always fails, so that the parent receives no messages from the
 * child. */
static void with_recvmsg_refused(void)
{
    init_inside(&spawn);
    filter_argument(SYS_recvmsg, 2, MSG_CMSG_CLOEXEC, SECCOMP_RET_ERRNO | EPERM);
    alarm(20);
    check_fails(&spawn, NULL, "can't receive from usernsctl-child");
}

int main(void)
{
    struct un_plan plan;
    need_user_namespaces();
    plan_own_ids(0, 0, &plan);
    check_in_child(with_recvmsg_refused);
    check_in_child(with_prctl_lethal);
    check_in_child(with_sendmsg_lethal);
    CHECK_INT(forked(with_chdir_lethal, &plan), 0);
    a_child_that_is_killed();
    a_child_that_exits();
    a_child_that_is_stopped();
    a_child_that_hangs();
    a_start_without_a_time_limit();
    return 0;
}
