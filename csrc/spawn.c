/*
 * Starting a command in a child that shares our memory until it execs, so that the price does not
 * grow with the heap; but for the few that the kernel wants to have a copy, see needs_copy() and
 * must_copy().
 *
 * The child runs on a stack of its own while this thread is suspended (CLONE_VFORK). Other threads
 * go on and may hold any lock, so the child makes system calls and little else: no allocation, no
 * stdio, no locks. It records a failure in our memory, where we find it when it has exited.
 */
#include "clone.h"
#include "error.h"
#include "fds.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Room for the text of a map, a path to be searched, and the calls around them. */
#define STACK_SIZE (32 * 1024)

/* What the child leaves for us. */
struct outcome {
    struct un_error err; /* no step: there was none */
    pid_t second;        /* the second child, 0 if there is none */
};

struct child {
    const struct un_spawn *spawn;
    struct outcome *outcome;
    struct un_error *err; /* the one in `outcome` */
    sigset_t signals;     /* the mask that the command gets */
    char *stack;          /* for the second child, where one is needed */
    bool copied;          /* it has a copy of our memory */
};

void un_spawn_init(struct un_spawn *spawn)
{
    memset(spawn, 0, sizeof *spawn);
    un_setup_init(&spawn->setup);
    spawn->stdio[0] = spawn->stdio[1] = spawn->stdio[2] = -1;
    spawn->cgroup = -1;
    spawn->process_group = -1;
    spawn->umask = -1;
}

static int write_own_maps(const struct un_spawn *spawn, struct un_error *err)
{
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self < 0)
        return un_fail_errno(err, UN_STEP_FACTS, "/proc/self");
    int failed = un_write_maps(self, spawn->plan, err);
    close(self);
    return failed;
}

static int apply_process(const struct un_spawn *spawn, struct un_error *err)
{
    if (un_place_stdio(spawn->stdio, err))
        return -1;
    if (spawn->umask >= 0)
        umask((mode_t)spawn->umask);
    if (spawn->new_session && setsid() < 0)
        return un_fail_errno(err, UN_STEP_SESSION, "setsid");
    if (spawn->process_group >= 0 && setpgid(0, spawn->process_group))
        return un_fail_errno(err, UN_STEP_SESSION, "setpgid");
    return 0;
}

/* What every child does that becomes the command. */
static int become_command(void *arg)
{
    struct child *child = arg;
    const struct un_spawn *spawn = child->spawn;

    if (apply_process(spawn, child->err) || un_setup_apply(&spawn->setup, child->err))
        return 127;
    if (spawn->close_fds && un_close_fds(spawn->keep, spawn->keep_count, child->err))
        return 127;
    if (spawn->restore_signals) {
        signal(SIGPIPE, SIG_DFL);
        signal(SIGXFSZ, SIG_DFL);
    }
    sigprocmask(SIG_SETMASK, &child->signals, NULL);
    un_exec(&spawn->command, child->err);
    return 127;
}

/* In a user namespace of its own from the start. */
static int run_fresh(void *arg)
{
    struct child *child = arg;
    const struct un_spawn *spawn = child->spawn;
    if (write_own_maps(spawn, child->err))
        return 127;
    /* The root of a new cgroup namespace is where its maker is: so not before the child is there
     * (cgroup_namespaces(7)). */
    if (spawn->cgroup >= 0 && spawn->flags & CLONE_NEWCGROUP && unshare(CLONE_NEWCGROUP)) {
        un_fail_errno(child->err, UN_STEP_UNSHARE, "");
        return 127;
    }
    return become_command(child);
}

/* An id that is not mapped shows as this one (/proc/sys/kernel/overflowuid). */
#define OVERFLOW_ID 65534

static bool changes(int64_t wanted, uint32_t current)
{
    return wanted >= 0 && (wanted != current || wanted == OVERFLOW_ID);
}

/* A change to ids that are others outside too makes memory undumpable (PR_SET_DUMPABLE(2const)):
 * our threads could not open our own files in /proc any more. Who does it needs a copy. */
static bool needs_copy(const struct child *child)
{
    const struct un_setup *setup = &child->spawn->setup;
    return !child->copied && (changes(setup->uid, geteuid()) || changes(setup->gid, getegid()));
}

static int run_second(struct child *child, bool copy)
{
    struct un_clone second = {
        .flags = CLONE_VFORK | CLONE_PARENT | (copy ? 0 : CLONE_VM),
        .stack = child->stack,
        .stack_size = STACK_SIZE,
        .run = become_command,
        .arg = child,
    };
    if (un_clone(&second)) {
        un_fail_errno(child->err, UN_STEP_CLONE, "");
        return 127;
    }
    child->outcome->second = second.pid;
    return 0;
}

/* Joins kept namespaces, then makes the further ones. */
static int run_joined(void *arg)
{
    struct child *child = arg;
    const struct un_spawn *spawn = child->spawn;
    if (spawn->join && un_namespace_join(spawn->join, child->err))
        return 127;
    if (spawn->flags && unshare((int)spawn->flags)) {
        un_fail_errno(child->err, UN_STEP_UNSHARE, "");
        return 127;
    }
    /* A process does not move into the PID namespace that it joins or makes: its children do. */
    bool pid = spawn->flags & CLONE_NEWPID || (spawn->join && spawn->join->fd[UN_NS_PID] >= 0);
    bool copy = needs_copy(child);
    return pid || copy ? run_second(child, copy) : become_command(child);
}

static void reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

/* The child that became the command is not the one that we cloned: forget that one. */
static int adopt_second(struct un_clone *clone, pid_t second, struct un_error *err)
{
    reap(clone->pid);
    clone->pid = second;
    int pidfd = un_pidfd_open(second);
    /* If SIGCHLD is ignored it may have ended, with nobody to wait for it. Then the pidfd of the
     * first child says the same: that it has ended, and that there is nothing to wait for. */
    if (pidfd < 0 && errno == ESRCH)
        return 0;
    int errnum = errno;
    close(clone->pidfd);
    clone->pidfd = pidfd;
    if (pidfd >= 0)
        return 0;
    errno = errnum;
    un_fail_errno(err, UN_STEP_CLONE, "pidfd_open");
    kill(second, SIGKILL);
    return -1;
}

/* Whether the child must not share our memory from the start. */
static bool must_copy(const struct un_spawn *spawn)
{
    uid_t owner;
    if (!spawn->join)
        return false;
    /* Nobody joins a time namespace while it shares memory (EUSERS; timens_install()). */
    if (spawn->join->fd[UN_NS_TIME] >= 0)
        return true;
    /* Who joins the namespace of somebody else gains capabilities: undumpable, as above. */
    return !ioctl(spawn->join->fd[UN_NS_USER], NS_GET_OWNER_UID, &owner) && owner != geteuid();
}

static int run_child(const struct un_spawn *spawn, struct un_clone *clone, struct outcome *outcome,
                     struct un_error *err)
{
    _Alignas(16) char stack[STACK_SIZE];
    _Alignas(16) char second_stack[STACK_SIZE];
    struct child child = {
        .spawn = spawn,
        .outcome = outcome,
        .err = &outcome->err,
        .stack = second_stack,
        .copied = must_copy(spawn),
    };

    clone->flags |= CLONE_VFORK | CLONE_PIDFD | (child.copied ? 0 : CLONE_VM);
    clone->stack = stack;
    clone->stack_size = sizeof stack;
    clone->arg = &child;
    clone->exit_signal = SIGCHLD;
    sigprocmask(SIG_SETMASK, NULL, &child.signals);
    if (un_clone(clone)) {
        un_explain_clone(err, UN_STEP_CLONE, clone->flags);
        if (spawn->cgroup >= 0)
            un_explain_cgroup(err, spawn->cgroup);
        return -1;
    }
    int failed = outcome->err.step != UN_STEP_NONE;
    if (failed)
        *err = outcome->err;
    if (!failed && outcome->second)
        failed = adopt_second(clone, outcome->second, err);
    else if (failed && outcome->second)
        reap(outcome->second);
    if (failed) {
        reap(clone->pid);
        if (clone->pidfd >= 0)
            close(clone->pidfd);
    }
    return failed ? -1 : 0;
}

/* The outcome is shared also with a child that has a copy of all the rest. */
static int run_and_share_outcome(const struct un_spawn *spawn, struct un_clone *clone,
                                 struct un_error *err)
{
    struct outcome *outcome =
        mmap(NULL, sizeof *outcome, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (outcome == MAP_FAILED)
        return un_fail_errno(err, UN_STEP_CLONE, "mmap");
    int failed = run_child(spawn, clone, outcome, err);
    munmap(outcome, sizeof *outcome);
    return failed;
}

static int watch_parent_and_run(struct un_spawn *spawn, struct un_clone *clone,
                                struct un_error *err)
{
    if (!spawn->setup.pdeathsig)
        return run_and_share_outcome(spawn, clone, err);
    spawn->setup.parent_pidfd = un_pidfd_open(getpid());
    if (spawn->setup.parent_pidfd < 0)
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    int failed = run_and_share_outcome(spawn, clone, err);
    close(spawn->setup.parent_pidfd);
    return failed;
}

int un_spawn(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err)
{
    struct un_clone clone = {.run = run_joined, .cgroup = spawn->cgroup};
    struct un_spawn joined = *spawn;
    struct un_namespace made;

    /* Who maps more than its own id can't do so itself: the namespace is made first, then joined.
     */
    bool outside = spawn->plan && !un_plan_writes_itself(spawn->plan);
    if (outside) {
        if (un_namespace_create(spawn->plan, 0, &made, err))
            return -1;
        joined.join = &made;
    } else if (spawn->plan) {
        clone.run = run_fresh;
        clone.flags = spawn->flags | CLONE_NEWUSER;
    }
    if (spawn->cgroup >= 0) {
        clone.flags &= ~(uint64_t)CLONE_NEWCGROUP;
        clone.flags |= UN_CLONE_INTO_CGROUP;
    }
    int failed = watch_parent_and_run(&joined, &clone, err);
    if (outside)
        un_namespace_close(&made);
    if (failed)
        return -1;
    *pid = clone.pid;
    *pidfd = clone.pidfd;
    return 0;
}
