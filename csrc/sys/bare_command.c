/*
 * Starting a bare command, which keeps the namespaces and the ids of its caller. Until the child
 * executes the command, it shares the memory of its parent, so that the time for the start does not
 * grow with the heap. In this time the child makes little but system calls: it does not allocate
 * memory, use stdio, or take locks.
 */
#include "base/base.h"
#include "sys/sys.h"

#include <sched.h>
#include <signal.h>
#include <sys/stat.h>

void un_spawn_init(struct un_spawn *spawn)
{
    memset(spawn, 0, sizeof *spawn);
    un_setup_init(&spawn->setup);
    spawn->stdio[0] = spawn->stdio[1] = spawn->stdio[2] = -1;
    spawn->cgroup = -1;
    spawn->process_group = -1;
    spawn->umask = -1;
    spawn->start_timeout_ms = UN_START_TIMEOUT_MS;
}

int un_spawn_prepare(const void *arg, struct un_error *err)
{
    const struct un_spawn *spawn = arg;
    if (un_place_stdio(spawn->stdio, err))
        return -1;
    if (spawn->umask >= 0)
        umask((mode_t)spawn->umask);
    if (spawn->new_session && setsid() < 0)
        return un_fail_errno(err, UN_STEP_SESSION, "setsid");
    if (spawn->process_group >= 0 && setpgid(0, spawn->process_group))
        return un_fail_errno(err, UN_STEP_SESSION, "setpgid");
    return spawn->close_fds ? un_close_fds_at_exec(spawn->keep, spawn->keep_count, err) : 0;
}

bool un_spawn_is_bare(const struct un_spawn *spawn)
{
    const struct un_setup *setup = &spawn->setup;
    return !spawn->plan && !spawn->join && !spawn->flags && !setup->propagation && !setup->root &&
           !setup->mount_proc && !setup->drop_bounding && !setup->no_new_privs &&
           !setup->no_membarrier && setup->group_count < 0 && setup->gid < 0 && setup->uid < 0 &&
           !setup->keep_caps;
}

struct bare {
    const struct un_spawn *spawn;
    struct un_error *err; /* error of the child; its step is UN_STEP_NONE on success */
    const struct un_clone *clone;
};

static int become_bare_command(void *arg)
{
    const struct bare *bare = arg;
    const struct un_spawn *spawn = bare->spawn;
    if (un_spawn_prepare(spawn, bare->err) || un_setup_apply(&spawn->setup, bare->err))
        return -1;
    if (spawn->restore_signals)
        un_restore_signals();
    un_set_signals(spawn->signals ? *spawn->signals : bare->clone->signals);
    return un_exec(&spawn->command, bare->err);
}

int un_spawn_bare(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err)
{
    struct bare bare = {.spawn = spawn, .err = err};
    struct un_clone clone = {
        .flags =
            CLONE_VM | CLONE_VFORK | CLONE_PIDFD | (spawn->cgroup >= 0 ? UN_CLONE_INTO_CGROUP : 0),
        .run = become_bare_command,
        .arg = &bare,
        .cgroup = spawn->cgroup,
        .exit_signal = SIGCHLD,
    };
    siginfo_t how;
    bare.clone = &clone;
    err->step = UN_STEP_NONE;
    if (un_clone(&clone))
        return un_fail_errno(err, UN_STEP_CLONE, "");
    if (err->step == UN_STEP_NONE) {
        *pid = clone.pid;
        *pidfd = clone.pidfd;
        return 0;
    }
    un_reap(clone.pidfd, &how);
    close(clone.pidfd);
    return -1;
}
