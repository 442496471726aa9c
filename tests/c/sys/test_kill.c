/* Tests of un_kill() under a seccomp filter that denies pidfd_send_signal(2). */
#include "base/base.h"
#include "inside.h"
#include "needs.h"
#include "seccomp.h"
#include "sys/sys.h"

#include <signal.h>
#include <stdint.h>

/* Forks a child that sleeps until it is killed. The child gets the pid `wanted`, unless that is 0
 * (clone3(2), set_tid). */
static pid_t fork_sleeper(pid_t wanted)
{
    uint64_t args[11] = {0}; /* struct clone_args */
    args[4] = SIGCHLD;
    args[8] = wanted ? (uint64_t)(uintptr_t)&wanted : 0;
    args[9] = wanted != 0;
    pid_t pid = (pid_t)syscall(SYS_clone3, args, sizeof args);
    CHECK(pid >= 0);
    while (pid == 0)
        pause();
    return pid;
}

static bool is_alive(pid_t pid)
{
    siginfo_t how = {.si_pid = 0};
    CHECK_INT(waitid(P_PID, (id_t)pid, &how, WEXITED | WNOHANG | WNOWAIT), 0);
    return !how.si_pid;
}

static void check_kill(int pidfd, pid_t child)
{
    refuse_call(UN_SYS_PIDFD_SEND_SIGNAL, EPERM);
    un_kill(pidfd);
    CHECK_INT(un_wait_readable(pidfd, 5000), 1);
    CHECK_INT(wait_for(child), 128 + SIGKILL);
}

static void a_child_is_killed(void)
{
    pid_t child = fork_sleeper(0);
    check_kill(un_pidfd_open(child), child);
}

/* Checks that the child is killed, but not the other child whose pid is the number that the first
 * child has in the PID namespace of /proc. */
static void a_child_is_killed_if_proc_has_other_pids(void)
{
    enter_inside();
    CHECK_INT(unshare(CLONE_NEWPID), 0);
    pid_t init = fork();
    CHECK(init >= 0);
    if (init) {
        CHECK_INT(wait_for(init), 0);
        return;
    }
    pid_t child = fork_sleeper(0);
    int pidfd = un_pidfd_open(child);
    pid_t outer = (pid_t)un_fd_info(pidfd, "Pid:");
    CHECK(outer > child);
    pid_t other = fork_sleeper(outer);
    CHECK_INT(other, outer);
    check_kill(pidfd, child);
    CHECK(is_alive(other));
    _exit(0); /* The kernel kills `other`, because PID 1 exits. */
}

int main(void)
{
    need_user_namespaces();
    check_in_child(a_child_is_killed);
    check_in_child(a_child_is_killed_if_proc_has_other_pids);
}
