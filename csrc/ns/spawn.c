/*
 * Starting a command in a child process. If the command needs namespaces or other ids, the child
 * executes the child program (start_child.c), which prepares and executes the command
 * (child/enter.c). Otherwise, the child executes the command directly (sys/bare_command.c).
 */
#include "base/base.h"
#include "explain/explain.h"
#include "ns/ns.h"
#include "sys/sys.h"

#include <sched.h>
#include <sys/wait.h>

static void describe(const struct un_spawn *spawn, const struct un_own_maps *maps, uint64_t signals,
                     struct un_task *task)
{
    un_task_init(task);
    task->has_init = spawn->has_init;
    task->restore_signals = spawn->restore_signals;
    task->flags = spawn->flags;
    task->signals = signals;
    task->maps = *maps;
    task->setup = spawn->setup;
    task->command = spawn->command;
    task->fd[UN_TASK_PARENT] = spawn->setup.parent_pidfd;
    if (spawn->join)
        memcpy(task->fd + UN_TASK_NS, spawn->join->fd, sizeof spawn->join->fd);
}

/* The state of the start of a command, as reported by the messages of the child and the second
 * child. */
struct start_state {
    bool here;
    pid_t pid;  /* pid of the second child */
    int pidfd;  /* pidfd of the second child; -1 before it is received */
    int failed; /* -1 if a failure was reported, with its error in `err`; otherwise 0 */
};

static void record_message(struct un_received *received, struct start_state *start_state,
                           struct un_error *err)
{
    if (received->message.type == UN_MESSAGE_FAILED && !start_state->failed)
        start_state->failed = un_received_failure(received, err);
    if (received->message.type == UN_MESSAGE_EXECUTING)
        start_state->here = true;
    /* The first UN_MESSAGE_EXECUTING or UN_MESSAGE_INIT comes from the second child. If the second
     * child is PID 1 of a new PID namespace, it forks the command, which sends another
     * UN_MESSAGE_EXECUTING. The sender of that message is ignored. */
    if (start_state->pid <= 0 && (received->message.type == UN_MESSAGE_EXECUTING ||
                                  received->message.type == UN_MESSAGE_INIT))
        start_state->pid = received->sender;
    if (received->message.type == UN_MESSAGE_SECOND && received->fd_count && start_state->pidfd < 0)
        start_state->pidfd = received->fd[--received->fd_count];
    un_close_each(received->fd, received->fd_count);
}

/* Number of failed attempts to receive a message after which the parent gives up. */
#define RECEIVE_TRIES 16

/* Receives messages until the execve(2) of the command has succeeded, or until no child is left. */
static void receive_all_messages(const struct un_start *start, struct start_state *start_state,
                                 struct un_error *err)
{
    struct un_received received;
    struct un_error receive_error;
    int got, tries = RECEIVE_TRIES;
    while ((got = un_receive_message(start, &received, &receive_error))) {
        if (got > 0) {
            record_message(&received, start_state, err);
            continue;
        }
        if (!start_state->failed)
            *err = receive_error;
        start_state->failed = -1;
        /* Continue after an error other than ETIMEDOUT, because the next message may contain the
         * pidfd of a second child that has to be killed, too. */
        if (receive_error.errnum == ETIMEDOUT || !--tries)
            return;
    }
}

/* Appends to the detail of a timeout error the signal that has stopped the child. Returns false if
 * no signal has stopped the child. */
static bool note_stop(int pidfd, struct un_error *err)
{
    int number = un_stopped_by(pidfd);
    size_t length = strlen(err->detail);
    if (number)
        snprintf(err->detail + length, sizeof err->detail - length, ": stopped by signal %d",
                 number);
    return number;
}

/* Reads the name of a process (proc_pid_comm(5)) into `name`; stores "" on failure. */
static void read_comm(pid_t pid, char name[64])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    un_read_file(AT_FDCWD, path, name, 64);
}

/* Returns a pidfd of the process `pid` if the process seems to be a child that `first` has forked:
 * both then have the same name (proc_pid_comm(5)). Otherwise returns -1. The pid alone is no proof,
 * because it may have been reused, may be valid only in another PID namespace, or may be that of an
 * adopted orphan. */
static int open_copy(pid_t pid, pid_t first)
{
    char names[2][64];
    siginfo_t how;
    read_comm(first, names[0]);
    read_comm(pid, names[1]);
    int pidfd = *names[0] && !strcmp(names[0], names[1]) ? un_pidfd_open(pid) : -1;
    if (pidfd < 0 || !waitid(UN_BY_PIDFD, (id_t)pidfd, &how, WEXITED | WNOHANG | WNOWAIT | __WALL))
        return pidfd;
    close(pidfd);
    return -1;
}

/*
 * Returns a pidfd of a second child that has not sent a message, or -1 if no second child is found.
 * Root in the namespaces may have stopped both children before they could send a message.
 *
 * Kills the first child, so that it can't fork any more. Then takes the next process in the list of
 * this thread's children. The list is in order of creation (proc_tid_children(5)), and only the
 * first child can have added children to the list since.
 */
static int find_second(const struct un_start *start)
{
    int pid, found = -1;
    bool is_later = false;
    un_kill(start->pidfd);
    un_auto_fclose FILE *list = fopen("/proc/thread-self/children", "re");
    while (list && found < 0 && fscanf(list, "%d", &pid) == 1) {
        if (is_later)
            found = open_copy(pid, start->pid);
        is_later = is_later || pid == start->pid;
    }
    return found;
}

/* Returns a pidfd of the second child, or -1 if it does not exist or is not found. */
static int open_second(const struct un_start *start, const struct start_state *start_state)
{
    if (!start->has_second || start_state->pidfd >= 0)
        return start_state->pidfd;
    /* If this process's descriptor table was full, the kernel dropped the pidfd from the message,
     * but the pid has been received. Open a pidfd now. */
    return start_state->pid > 0 ? un_pidfd_open(start_state->pid) : find_second(start);
}

/* Kills the child and the second child after a failure. If no message has reported an error, fills
 * in `err` from the exit statuses of the two. If the error is a timeout, adds to its detail the
 * signal that has stopped one of them. Returns -1. */
static int kill_after_failure(const struct un_start *start, const struct start_state *start_state,
                              struct un_error *err)
{
    const bool is_late = start_state->failed && err->errnum == ETIMEDOUT;
    const bool has_stopped = is_late && note_stop(start->pidfd, err);
    int second = open_second(start, start_state);
    const int last = second >= 0 ? second : start->pidfd;
    siginfo_t how;
    if (!start_state->failed)
        un_fail_ended(last, err);
    else if (is_late && !has_stopped)
        note_stop(last, err);
    if (second >= 0) {
        un_kill_and_reap(second, &how);
        close(second);
    }
    un_end_child(start);
    return -1;
}

static int start_and_wait(struct un_start *start, const struct un_task *task, pid_t *pid,
                          int *pidfd, struct un_error *err)
{
    struct start_state start_state = {.pidfd = -1};
    siginfo_t how;
    if (un_start_child(start, task, err))
        return -1;
    receive_all_messages(start, &start_state, err);
    close(start->socket);
    if (start_state.failed || !start_state.here ||
        (start->has_second && (start_state.pidfd < 0 || start_state.pid <= 0)))
        return kill_after_failure(start, &start_state, err);
    *pid = start->pid;
    *pidfd = start->pidfd;
    if (start->has_second) {
        un_reap(start->pidfd, &how);
        close(start->pidfd);
        *pid = start_state.pid;
        *pidfd = start_state.pidfd;
    }
    return 0;
}

static int spawn_inside(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err)
{
    struct un_own_maps maps = {.policy = NULL};
    struct un_task task;
    un_auto_free char(*text)[UN_MAP_TEXT_MAX] = NULL;
    if (spawn->plan) {
        text = calloc(2, sizeof *text);
        if (!text)
            return un_fail_errno(err, UN_STEP_CLONE, "can't store the id maps");
        un_own_maps_of(spawn->plan, text, &maps);
    }
    describe(spawn, &maps, spawn->signals ? *spawn->signals : un_signal_mask(), &task);
    if (spawn->plan)
        task.flags |= CLONE_NEWUSER;
    struct un_start start = {
        .program = spawn->child,
        .cgroup = spawn->cgroup,
        .timeout_ms = spawn->start_timeout_ms,
        .has_second = un_task_has_second(&task),
        .prepare = un_spawn_prepare,
        .arg = spawn,
        .environment = spawn->command.envp,
    };
    return start_and_wait(&start, &task, pid, pidfd, err);
}

static int spawn_bare(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err)
{
    int failed = un_spawn_bare(spawn, pid, pidfd, err);
    if (failed && err->step == UN_STEP_CLONE && spawn->cgroup >= 0)
        un_explain_cgroup(err, spawn->cgroup);
    return failed;
}

static int watch_parent_and_spawn(struct un_spawn *spawn, pid_t *pid, int *pidfd,
                                  struct un_error *err)
{
    if (spawn->setup.pdeathsig) {
        spawn->setup.parent_pidfd = un_pidfd_open(getpid());
        if (spawn->setup.parent_pidfd < 0)
            return un_fail_errno(err, UN_STEP_PDEATHSIG, "pidfd_open");
    }
    int failed = un_spawn_is_bare(spawn) ? spawn_bare(spawn, pid, pidfd, err)
                                         : spawn_inside(spawn, pid, pidfd, err);
    if (spawn->setup.pdeathsig)
        close(spawn->setup.parent_pidfd);
    return failed;
}

/* Starts the command. If the child can't write the uid and gid maps itself, because they contain
 * ids other than the caller's own, this process creates and maps the user namespace first. */
static int make_and_spawn(struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err)
{
    struct un_namespace created;
    if (!spawn->plan || un_plan_writes_itself(spawn->plan))
        return watch_parent_and_spawn(spawn, pid, pidfd, err);
    if (un_namespace_create(spawn->plan, 0, spawn->child, &created, err))
        return -1;
    spawn->plan = NULL;
    spawn->join = &created;
    int failed = watch_parent_and_spawn(spawn, pid, pidfd, err);
    spawn->join = NULL;
    un_namespace_close(&created);
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
