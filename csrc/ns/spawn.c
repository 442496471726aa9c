/*
 * Starting a command in a child: by the child program where it is to run somewhere else, or as
 * somebody else (start.c, inside.c), else at once.
 *
 * In both cases the child shares our memory until it executes something, so that the price does not
 * grow with the heap, and until then it makes system calls and little else: no allocation, no
 * stdio, no locks.
 */
#include "base/error.h"
#include "ns/start_child.h"
#include "sys/clone.h"
#include "sys/fds.h"
#include "sys/map_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

void un_spawn_init(struct un_spawn *spawn)
{
    memset(spawn, 0, sizeof *spawn);
    un_setup_init(&spawn->setup);
    spawn->stdio[0] = spawn->stdio[1] = spawn->stdio[2] = -1;
    spawn->cgroup = -1;
    spawn->process_group = -1;
    spawn->umask = -1;
}

/* What is no matter of namespaces: it is done before there are any. */
static int prepare(const void *arg, struct un_error *err)
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

/* ---- a bare command ------------------------------------------------------------------------ */

static bool is_bare(const struct un_spawn *spawn)
{
    const struct un_setup *setup = &spawn->setup;
    return !spawn->plan && !spawn->join && !spawn->flags && !setup->propagation && !setup->root &&
           !setup->mount_proc && !setup->drop_bounding && !setup->no_new_privs &&
           setup->group_count < 0 && setup->gid < 0 && setup->uid < 0 && !setup->keep_caps;
}

struct bare {
    const struct un_spawn *spawn;
    struct un_error *err; /* no step: there was none */
    uint64_t signals;     /* the mask that the command gets */
};

static int become_command(void *arg)
{
    const struct bare *bare = arg;
    const struct un_spawn *spawn = bare->spawn;
    if (prepare(spawn, bare->err) || un_setup_apply(&spawn->setup, bare->err))
        return -1;
    if (spawn->restore_signals) {
        signal(SIGPIPE, SIG_DFL);
        signal(SIGXFSZ, SIG_DFL);
    }
    un_set_signals(bare->signals);
    return un_exec(&spawn->command, bare->err);
}

static int spawn_bare(const struct un_spawn *spawn, uint64_t signals, pid_t *pid, int *pidfd,
                      struct un_error *err)
{
    struct bare bare = {.spawn = spawn, .err = err, .signals = signals};
    struct un_clone clone = {
        .flags =
            CLONE_VM | CLONE_VFORK | CLONE_PIDFD | (spawn->cgroup >= 0 ? UN_CLONE_INTO_CGROUP : 0),
        .run = become_command,
        .arg = &bare,
        .cgroup = spawn->cgroup,
        .exit_signal = SIGCHLD,
    };
    siginfo_t how;
    err->step = UN_STEP_NONE;
    if (un_clone(&clone)) {
        un_explain_clone(err, UN_STEP_CLONE, 0);
        if (spawn->cgroup >= 0)
            un_explain_cgroup(err, spawn->cgroup);
        return -1;
    }
    *pid = clone.pid;
    *pidfd = clone.pidfd;
    if (err->step == UN_STEP_NONE)
        return 0;
    un_reap(clone.pidfd, &how);
    close(clone.pidfd);
    return -1;
}

/* ---- any other ----------------------------------------------------------------------------- */

static void describe_setup(const struct un_setup *setup, struct un_task *task)
{
    task->number[UN_TASK_PROPAGATION] = (int64_t)setup->propagation;
    task->number[UN_TASK_DROP_BOUNDING] = (int64_t)setup->drop_bounding;
    task->number[UN_TASK_NO_NEW_PRIVS] = setup->no_new_privs;
    task->number[UN_TASK_GID] = setup->gid;
    task->number[UN_TASK_UID] = setup->uid;
    task->number[UN_TASK_KEEP_CAPS] = setup->keep_caps;
    task->number[UN_TASK_PDEATHSIG] = setup->pdeathsig;
    task->number[UN_TASK_GROUPS] = setup->group_count;
    task->text[UN_TASK_MOUNT_PROC] = setup->mount_proc;
    task->text[UN_TASK_ROOT] = setup->root;
    task->text[UN_TASK_CWD] = setup->cwd;
    task->groups = setup->groups;
}

static void describe(const struct un_spawn *spawn, const struct un_own_maps *maps, uint64_t signals,
                     struct un_task *task)
{
    un_task_init(task);
    task->number[UN_TASK_FLAGS] = (int64_t)spawn->flags;
    task->number[UN_TASK_SIGNALS] = (int64_t)signals;
    task->number[UN_TASK_RESTORE_SIGNALS] = spawn->restore_signals;
    task->text[UN_TASK_FILE] = spawn->command.file;
    task->text[UN_TASK_PATH] = spawn->command.path;
    task->argv = spawn->command.argv;
    task->text[UN_TASK_POLICY] = maps->policy;
    task->text[UN_TASK_UID_MAP] = maps->map[UN_UID];
    task->text[UN_TASK_GID_MAP] = maps->map[UN_GID];
    describe_setup(&spawn->setup, task);
    task->fd[UN_TASK_PARENT] = spawn->setup.parent_pidfd;
    if (spawn->join)
        memcpy(task->fd + UN_TASK_NS, spawn->join->fd, sizeof spawn->join->fd);
}

/* Who is to be the command. */
struct heard {
    bool here;
    pid_t pid;  /* of a second child, as all that follows */
    int pidfd;  /* -1: nothing was heard of it */
    int failed; /* as is written down */
};

static void note(struct un_told *told, struct heard *heard, struct un_error *err)
{
    if (told->message.news == UN_NEWS_FAILED && !heard->failed)
        heard->failed = un_told_failure(told, err);
    if (told->message.news == UN_NEWS_HERE) {
        heard->here = true;
        heard->pid = told->sender;
    }
    if (told->message.news == UN_NEWS_SECOND && told->fd_count && heard->pidfd < 0)
        heard->pidfd = told->fd[--told->fd_count];
    while (told->fd_count)
        close(told->fd[--told->fd_count]);
}

/* Until the command has been executed, or nobody is left who could do it. */
static void hear_out(int socket, struct heard *heard, struct un_error *err)
{
    struct un_told told;
    struct un_error mishap;
    int got;
    while ((got = un_hear(socket, &told, &mishap))) {
        if (got > 0)
            note(&told, heard, err);
        else if (!heard->failed) {
            heard->failed = -1;
            *err = mishap;
        }
    }
}

/* Nothing of it is to be left. */
static int give_up(const struct un_start *start, const struct heard *heard, struct un_error *err)
{
    siginfo_t how;
    /* Of whom we only know the pid we had no room for the descriptor. */
    int second = heard->pidfd >= 0 || heard->pid <= 0 ? heard->pidfd : un_pidfd_open(heard->pid);
    if (second >= 0) {
        un_kill(second);
        un_reap(second, &how);
        close(second);
    }
    if (heard->failed) {
        un_kill(start->pidfd);
        un_reap(start->pidfd, &how);
    } else {
        un_fail_ended(start->pidfd, err);
    }
    close(start->pidfd);
    return -1;
}

static int start_and_hear(struct un_start *start, const struct un_task *task, pid_t *pid,
                          int *pidfd, struct un_error *err)
{
    struct heard heard = {.pidfd = -1};
    siginfo_t how;
    if (un_start_child(start, task, err))
        return -1;
    hear_out(start->socket, &heard, err);
    close(start->socket);
    if (heard.failed || !heard.here || (start->has_second && (heard.pidfd < 0 || heard.pid <= 0)))
        return give_up(start, &heard, err);
    *pid = start->pid;
    *pidfd = start->pidfd;
    if (start->has_second) {
        un_reap(start->pidfd, &how);
        close(start->pidfd);
        *pid = heard.pid;
        *pidfd = heard.pidfd;
    }
    return 0;
}

static int spawn_inside(const struct un_spawn *spawn, uint64_t signals, pid_t *pid, int *pidfd,
                        struct un_error *err)
{
    struct un_own_maps maps = {.policy = NULL};
    struct un_task task;
    char(*text)[UN_MAP_TEXT_MAX] = NULL;
    if (spawn->plan) {
        text = calloc(2, sizeof *text);
        if (!text)
            return un_fail_errno(err, UN_STEP_CLONE, "the maps");
        un_own_maps_of(spawn->plan, text, &maps);
    }
    describe(spawn, &maps, signals, &task);
    if (spawn->plan)
        task.number[UN_TASK_FLAGS] |= CLONE_NEWUSER;
    struct un_start start = {
        .program = spawn->child,
        .cgroup = spawn->cgroup,
        .has_second =
            spawn->flags & (CLONE_NEWPID | CLONE_NEWTIME) || task.fd[UN_TASK_NS + UN_NS_PID] >= 0,
        .prepare = prepare,
        .arg = spawn,
        .environment = spawn->command.envp,
    };
    int failed = start_and_hear(&start, &task, pid, pidfd, err);
    free(text);
    return failed;
}

static int watch_parent_and_spawn(struct un_spawn *spawn, pid_t *pid, int *pidfd,
                                  struct un_error *err)
{
    uint64_t signals = un_block_signals();
    un_set_signals(signals);
    if (spawn->setup.pdeathsig) {
        spawn->setup.parent_pidfd = un_pidfd_open(getpid());
        if (spawn->setup.parent_pidfd < 0)
            return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    }
    int failed = is_bare(spawn) ? spawn_bare(spawn, signals, pid, pidfd, err)
                                : spawn_inside(spawn, signals, pid, pidfd, err);
    if (spawn->setup.pdeathsig)
        close(spawn->setup.parent_pidfd);
    return failed;
}

/* Who maps more than its own id can't do so itself: the namespace is made first, then joined. */
static int make_and_spawn(struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err)
{
    struct un_namespace made;
    if (!spawn->plan || un_plan_writes_itself(spawn->plan))
        return watch_parent_and_spawn(spawn, pid, pidfd, err);
    if (un_namespace_create(spawn->plan, 0, spawn->child, &made, err))
        return -1;
    spawn->plan = NULL;
    spawn->join = &made;
    int failed = watch_parent_and_spawn(spawn, pid, pidfd, err);
    un_namespace_close(&made);
    return failed;
}

int un_spawn(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err)
{
    struct un_spawn ours = *spawn;
    int cancel = un_forbid_cancel();
    ours.setup.parent_pidfd = -1;
    int failed = make_and_spawn(&ours, pid, pidfd, err);
    un_restore_cancel(cancel);
    return failed;
}
