/*
 * The child program, which enters namespaces on behalf of a caller and executes a command there.
 * Root in a namespace may ptrace any process that enters the namespace, and so read and write the
 * memory of that process, copy its descriptors, and reach the root directory that the process had
 * before. So the caller itself never enters a namespace. The child program has its own memory,
 * which contains only data that the command will receive anyway. The only other descriptor besides
 * the command's is a socket, which can't be reopened through /proc. The child program becomes
 * non-dumpable before it enters a namespace. The child program allocates no memory, and uses
 * neither stdio nor threads, so that it needs little of libc.
 */
#include "base/base.h"
#include "child/child.h"
#include "sys/sys.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#define FAILED 127

static void close_fd(int *fd)
{
    un_close_quietly(*fd);
    *fd = -1;
}

/* Joins the existing namespaces of the task, and then creates its new namespaces, except for a new
 * PID namespace, which run_second() creates. */
static int enter_task_namespaces(struct un_task *task, struct un_error *err)
{
    uint64_t flags = task->flags & ~(uint64_t)CLONE_NEWPID;
    for (int kind = 0; kind < UN_NS_COUNT; kind++) {
        if (un_namespace_join_one(task->fd[UN_TASK_NS + kind], kind, err))
            return -1;
        close_fd(&task->fd[UN_TASK_NS + kind]);
    }
    if (flags & CLONE_NEWUSER)
        return un_make_and_map(flags, &task->maps, err);
    return flags && unshare((int)flags) ? un_fail_errno(err, UN_STEP_UNSHARE, "") : 0;
}

struct inside {
    struct un_task task;
    /* the caller's action for SIGCHLD; the command gets this action, although PID 1 uses the
     * default action */
    void (*sigchld)(int);
};

/* Sends the error `err` to the caller, because the command can't start. Returns the exit status for
 * this process. */
static int send_and_fail(const struct inside *inside, struct un_error *err)
{
    un_send_failure(inside->task.fd[UN_TASK_SOCKET], err);
    return FAILED;
}

/* Executes the command. On failure, sends the error to the caller, unless the caller has given up,
 * and returns the exit status for this process. */
static int become_task_command(void *arg)
{
    struct inside *inside = arg;
    struct un_task *task = &inside->task;
    const struct un_message here = {.type = UN_MESSAGE_EXECUTING};
    struct un_error err;
    if (!un_setup_apply(&task->setup, &err)) {
        close_fd(&task->fd[UN_TASK_PARENT]);
        if (task->restore_signals)
            un_restore_signals();
        /* A closed socket means that the caller has given up and has reported a failure. Do not
         * execute the command in this case. */
        if (!un_send_message(task->fd[UN_TASK_SOCKET], &here, NULL, 0))
            return FAILED;
        un_set_signals(task->signals);
        un_exec(&task->command, &err);
    }
    return send_and_fail(inside, &err);
}

/* Runs in the child that PID 1 of the new PID namespace has forked. Restores the caller's action
 * for SIGCHLD, which PID 1 has reset so that it can wait for this child, and executes the
 * command. */
static int become_command_below_init(void *arg)
{
    struct inside *inside = arg;
    signal(SIGCHLD, inside->sigchld);
    return become_task_command(arg);
}

/* Runs in PID 1 of the new PID namespace, with all signals blocked by un_clone(). Forks the
 * command, and then acts as PID 1 until the command exits. Returns only on failure. */
static int become_init(void *arg)
{
    struct inside *inside = arg;
    struct un_task *task = &inside->task;
    const struct un_message message = {.type = UN_MESSAGE_INIT};
    struct un_clone command = {
        .run = become_command_below_init,
        .arg = inside,
        .exit_signal = SIGCHLD,
    };
    struct un_error err;
    int deathsig = task->setup.pdeathsig;
    /* Set no parent-death signal for the command. Its parent, PID 1 of the new PID namespace, has
     * that signal instead: when this PID 1 dies, the kernel kills the command. */
    task->setup.pdeathsig = 0;
    if (deathsig && un_die_with_parent(deathsig, task->fd[UN_TASK_PARENT], &err))
        return send_and_fail(inside, &err);
    un_send_message(task->fd[UN_TASK_SOCKET], &message, NULL, 0);
    inside->sigchld = signal(SIGCHLD, SIG_DFL);
    if (!un_clone(&command))
        un_be_init(command.pid, -1);
    un_fail_errno(&err, UN_STEP_CLONE, "");
    return send_and_fail(inside, &err);
}

/* Waits for the byte by which the caller confirms that it has received its end of the socket for
 * messages (ns/start_child.c). Returns false if the caller has died: then the command must not
 * start, because no process would be left to kill it. */
static bool wait_for_caller(int socket)
{
    char byte;
    return un_read_all(socket, &byte, 1) == 1;
}

/* Forks the second child, which executes the command (un_task_has_second()). The clone(2) that
 * forks it also creates the new PID namespace, because some seccomp filters allow clone(2) but deny
 * unshare(2). */
static int run_second(struct inside *inside)
{
    const int socket = inside->task.fd[UN_TASK_SOCKET];
    const struct un_message message = {.type = UN_MESSAGE_SECOND};
    struct un_clone second = {
        .flags = CLONE_PARENT | CLONE_PIDFD | (inside->task.flags & CLONE_NEWPID),
        .run = inside->task.has_init ? become_init : become_task_command,
        .arg = inside,
    };
    struct un_error err;
    if (un_clone(&second)) {
        un_fail_errno(&err, UN_STEP_CLONE, "");
        return send_and_fail(inside, &err);
    }
    return un_send_message(socket, &message, &second.pidfd, 1) ? 0 : FAILED;
}

static int run_task(struct inside *inside)
{
    struct un_task *task = &inside->task;
    struct un_error err;
    /* Call un_task_has_second() first: it checks descriptors of namespaces, which
     * enter_task_namespaces() closes. */
    bool second = un_task_has_second(task);
    if (enter_task_namespaces(task, &err))
        return send_and_fail(inside, &err);
    return second ? run_second(inside) : become_task_command(inside);
}

/* Creates namespaces, sends descriptors of them to the caller, and keeps them alive. Then closes
 * all descriptors and becomes dumpable, because the caller, newuidmap and newgidmap can write the
 * maps of the user namespace only while this process is dumpable. The end of file on the socket
 * tells the caller that all descriptors are closed. */
static int hold_namespaces(struct un_task *task, struct un_error *err)
{
    const struct un_message holding = {.type = UN_MESSAGE_HOLDING};
    int fds[UN_MESSAGE_FDS], count = 1;
    if (un_die_with_parent(SIGKILL, task->fd[UN_TASK_PARENT], err))
        return -1;
    close_fd(&task->fd[UN_TASK_PARENT]);
    if (unshare((int)task->flags))
        return un_fail_errno(err, UN_STEP_UNSHARE, "");
    fds[0] = un_open_self(err);
    if (fds[0] < 0)
        return -1;
    for (int kind = 0; kind < UN_NS_COUNT; kind++)
        if (task->flags & un_ns_flag(kind)) {
            fds[count] = openat(fds[0], un_ns_file(kind), O_RDONLY | O_CLOEXEC);
            if (fds[count++] < 0)
                return un_fail_errno(err, UN_STEP_FACTS, un_ns_file(kind));
        }
    if (!un_send_message(task->fd[UN_TASK_SOCKET], &holding, fds, (size_t)count))
        return un_fail_errno(err, UN_STEP_WAIT, "");
    un_close_each(fds, (size_t)count);
    /* Standard input, output and error are duplicates of the socket (ns/start_child.c). */
    un_close_each((const int[]){0, 1, 2}, 3);
    close_fd(&task->fd[UN_TASK_SOCKET]);
    /* Ignore a failure: the caller then fails to open uid_map and gid_map, and reports that
     * error. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    for (;;)
        pause();
}

void un_child_main(char **words, char **environment)
{
    static const char usage[] = "usernsctl-child: this program is for internal use by usernsctl\n";
    struct inside inside;
    struct un_task *task = &inside.task;
    struct un_error err;
    int failed = un_hide_process(&err);
    if (!un_task_parse(words, task)) {
        (void)!write(STDERR_FILENO, usage, sizeof usage - 1);
        _exit(125);
    }
    task->command.envp = (const char *const *)environment;
    /* Set no close-on-exec if this process only keeps namespaces alive, because such a process
     * executes nothing. */
    for (int i = 0; i < UN_TASK_FDS && !task->holds && !failed; i++)
        if (task->fd[i] >= 0 && fcntl(task->fd[i], F_SETFD, FD_CLOEXEC))
            failed = un_fail_errno(&err, UN_STEP_CLONE,
                                   "can't set close-on-exec on a descriptor of usernsctl-child");
    if (!wait_for_caller(task->fd[UN_TASK_SOCKET]))
        _exit(FAILED);
    if (!task->holds && !failed)
        _exit(run_task(&inside));
    if (!failed)
        hold_namespaces(task, &err);
    un_send_failure(task->fd[UN_TASK_SOCKET], &err);
    _exit(FAILED);
}
