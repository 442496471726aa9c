/*
 * Starting the child program and receiving its messages.
 *
 * Until the child executes the child program, it shares the memory of this process, so that the
 * time for the start does not grow with the heap. This thread is suspended meanwhile (CLONE_VFORK),
 * but other threads continue and may hold any lock. So the child makes only system calls, and
 * stores an error in the shared memory.
 *
 * Afterwards the child program sends messages over a socket. End of file means that the command has
 * been executed, so no other process may have the child's end of the socket, not even a child that
 * another thread forks at the same time. Hence the child creates the socket pair itself, in its own
 * descriptor table, and sends the parent's end to the parent.
 */
#include "base/base.h"
#include "explain/explain.h"
#include "ns/ns.h"
#include "sys/sys.h"

#include <sched.h>
#include <signal.h>
#include <sys/socket.h>

struct child {
    const struct un_start *start;
    const struct un_task *task;
    struct un_task_argv *words;
    struct un_error *err; /* error of the child; its step is UN_STEP_NONE on success */
    int handover[2]; /* socket pair over which the child sends the parent its end of the socket for
                        messages; the parent receives from handover[0] */
};

/* A buffer for the control messages of one message, which are all its descriptors and the sender's
 * credentials. */
union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(UN_MESSAGE_FDS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

/* Extracts the descriptors and the sender's pid from the control messages of a message. */
static void take_control(struct msghdr *header, struct un_received *received)
{
    struct ucred sender;
    received->fd_count = 0;
    received->sender = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part; part = CMSG_NXTHDR(header, part)) {
        size_t size = part->cmsg_len - CMSG_LEN(0);
        if (part->cmsg_level != SOL_SOCKET)
            continue;
        if (part->cmsg_type == SCM_RIGHTS && size <= sizeof received->fd) {
            received->fd_count = size / sizeof(int);
            memcpy(received->fd, CMSG_DATA(part), size);
        } else if (part->cmsg_type == SCM_CREDENTIALS && size == sizeof sender) {
            memcpy(&sender, CMSG_DATA(part), size);
            received->sender = sender.pid;
        }
    }
}

static ssize_t receive(int socket, void *data, size_t size, int flags, struct un_received *received)
{
    union control control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr header = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    ssize_t got;
    while ((got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | flags)) < 0 && errno == EINTR)
        continue;
    if (got <= 0)
        return got;
    take_control(&header, received);
    if (!(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return got;
    /* Fail with EMFILE: the kernel has dropped those descriptors that did not fit this process's
     * descriptor table. */
    un_close_each(received->fd, received->fd_count);
    errno = EMFILE;
    return -1;
}

/* Creates the socket pair for messages, and sends the parent's end to the parent. Returns the
 * child's end, or -1. The descriptor is above 2, so that the command's stdio does not replace
 * it. */
static int make_socket(const struct child *child)
{
    int ends[2], on = 1, empty = child->start->is_empty;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | (empty ? 0 : SOCK_CLOEXEC), 0, ends))
        return -1;
    if (child->start->has_second && setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on))
        return -1;
    if (!un_send(child->handover[1], "", 1, &ends[0], 1))
        return -1;
    close(ends[0]);
    int moved = ends[1] > 2 ? ends[1] : fcntl(ends[1], empty ? F_DUPFD : F_DUPFD_CLOEXEC, 3);
    if (moved != ends[1])
        close(ends[1]);
    return moved;
}

/* Duplicates the descriptors of the task to numbers above 2. The originals stay open, because the
 * caller may also pass them to the command. */
static int copy_fds(const struct child *child, int fd[UN_TASK_FDS])
{
    int copy = child->start->is_empty ? F_DUPFD : F_DUPFD_CLOEXEC;
    for (int i = 0; i < UN_TASK_FDS; i++) {
        if (i == UN_TASK_SOCKET)
            fd[i] = make_socket(child);
        else
            fd[i] = child->task->fd[i] < 0 ? -1 : fcntl(child->task->fd[i], copy, 3);
        if (fd[i] < 0 && (i == UN_TASK_SOCKET || child->task->fd[i] >= 0))
            return -1;
    }
    return 0;
}

/* Duplicates the socket for messages to standard input, output and error. The child program needs
 * none of them, but must not start without them: in a process whose real and effective ids differ,
 * musl opens /dev/null in place of those that are closed, and crashes if that fails
 * (__init_libc()). */
static int fill_stdio(int socket)
{
    for (int fd = 0; fd < 3; fd++) {
        close(fd);
        /* fcntl(2) returns the lowest free number, which is `fd`. */
        if (fcntl(socket, F_DUPFD, 0) != fd)
            return -1;
    }
    return 0;
}

/* Runs in the child, and executes the child program. Returns only on failure. */
static int execute_program(void *arg)
{
    static char *const nothing[] = {NULL};
    struct child *child = arg;
    const struct un_start *start = child->start;
    int fd[UN_TASK_FDS];
    /* Set close-on-exec on all existing descriptors, so that the child program inherits only the
     * descriptors that are created below. */
    if (start->is_empty)
        un_close_all_fds_at_exec();
    if (copy_fds(child, fd) || (start->is_empty && fill_stdio(fd[UN_TASK_SOCKET])))
        return un_fail_errno(child->err, UN_STEP_CLONE, UN_CHILD_DESCRIPTOR);
    if (!start->is_empty && start->prepare(start->arg, child->err))
        return -1;
    for (int i = 0; i < UN_TASK_FDS && !start->is_empty; i++)
        if (fd[i] >= 0 && fcntl(fd[i], F_SETFD, 0))
            return un_fail_errno(child->err, UN_STEP_CLONE, UN_CHILD_DESCRIPTOR);
    un_task_argv_set_fds(child->words, fd);
    execve(start->program, (char *const *)child->words->argv,
           start->environment ? (char *const *)start->environment : nothing);
    un_fail_errno(child->err, UN_STEP_CLONE, start->program);
    /* Report E2BIG as an error of the command, because the environment and nearly all arguments
     * belong to the command. */
    if (errno == E2BIG && !start->is_empty)
        un_fail_errno(child->err, UN_STEP_EXEC, child->task->command.file);
    else if (errno == ENOENT || errno == EACCES)
        child->err->cause = "child-missing";
    return -1;
}

/* Receives the parent's end of the socket for messages, and then sends the byte for which the child
 * program waits before it starts the command (child/enter.c). Without the socket, this process
 * would not learn which processes to kill after a failure. */
static int receive_socket(int handover, struct un_start *start, struct un_error *err)
{
    struct un_received received;
    char byte;
    /* Do not wait for the socket. The child sends it before it executes the child program, and by
     * now the child has executed that program, or has died. */
    ssize_t got = receive(handover, &byte, 1, MSG_DONTWAIT, &received);
    if (got < 0 && errno == EAGAIN)
        return un_fail_ended(start->pidfd, err);
    if (got != 1 || received.fd_count != 1)
        return un_fail_errno(err, UN_STEP_CLONE, UN_CHILD_DESCRIPTOR);
    start->socket = received.fd[0];
    if (un_send(start->socket, "", 1, NULL, 0))
        return 0;
    if (errno == EPIPE || errno == ECONNRESET)
        un_fail_ended(start->pidfd, err);
    else
        un_fail_errno(err, UN_STEP_CLONE, "can't send to usernsctl-child");
    close(start->socket);
    return -1;
}

static int clone_child(struct un_start *start, struct child *child, struct un_error *err)
{
    struct un_clone clone = {
        .flags =
            CLONE_VM | CLONE_VFORK | CLONE_PIDFD | (start->cgroup >= 0 ? UN_CLONE_INTO_CGROUP : 0),
        .run = execute_program,
        .arg = child,
        .cgroup = start->cgroup,
        .exit_signal = SIGCHLD,
    };
    child->err->step = UN_STEP_NONE;
    if (un_clone(&clone)) {
        un_fail_errno(err, UN_STEP_CLONE, "");
        if (start->cgroup >= 0)
            un_explain_cgroup(err, start->cgroup);
        return -1;
    }
    start->deadline = un_now_ms() + start->timeout_ms;
    start->pid = clone.pid;
    start->pidfd = clone.pidfd;
    if (err->step == UN_STEP_NONE && !receive_socket(child->handover[0], start, err))
        return 0;
    un_end_child(start);
    return -1;
}

int un_start_child(struct un_start *start, const struct un_task *task, struct un_error *err)
{
    struct un_task_argv words;
    struct child child = {.start = start, .task = task, .words = &words, .err = err};
    if (!start->program)
        return un_fail(err, UN_STEP_ARGUMENT, EINVAL, NULL,
                       "the path of usernsctl-child is missing");
    if (un_task_argv_make(task, &words, err))
        return -1;
    int failed = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, child.handover);
    if (failed) {
        un_fail_errno(err, UN_STEP_CLONE, "socketpair");
    } else {
        failed = clone_child(start, &child, err);
        un_close_each(child.handover, 2);
    }
    un_task_argv_free(&words);
    return failed;
}

void un_end_child(const struct un_start *start)
{
    siginfo_t how;
    un_kill_and_reap(start->pidfd, &how);
    close(start->pidfd);
}

/* Waits until a message from the child can be received, but not past the deadline. */
static int wait_for_child_message(const struct un_start *start, struct un_error *err)
{
    int64_t left = start->deadline - un_now_ms();
    int count = un_wait_readable(start->socket, start->timeout_ms < 0 ? -1
                                                : left > 0            ? (int)left
                                                                      : 0);
    if (count > 0)
        return 0;
    if (count < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "can't receive from usernsctl-child");
    return un_fail(err, UN_STEP_CLONE, ETIMEDOUT, "start-timeout",
                   "the child did not execute the command within %g s", start->timeout_ms / 1000.0);
}

int un_receive_message(const struct un_start *start, struct un_received *received,
                       struct un_error *err)
{
    struct un_message *message = &received->message;
    if (wait_for_child_message(start, err))
        return -1;
    ssize_t got = receive(start->socket, message, sizeof *message, 0, received);
    /* Treat ECONNRESET like end of file: the child has exited before it read the parent's byte. */
    if (got == 0 || (got < 0 && errno == ECONNRESET))
        return 0;
    if (got < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "can't receive from usernsctl-child");
    if (got == sizeof *message && message->type >= 0 && message->type < UN_MESSAGE_TYPES &&
        message->step >= 0 && message->step < UN_STEP_COUNT &&
        memchr(message->cause, '\0', sizeof message->cause) &&
        memchr(message->detail, '\0', sizeof message->detail))
        return 1;
    un_close_each(received->fd, received->fd_count);
    return un_fail(err, UN_STEP_CLONE, EPROTO, NULL, "invalid message from usernsctl-child");
}

int un_received_failure(const struct un_received *received, struct un_error *err)
{
    struct un_cause cause;
    errno = received->message.errnum;
    un_fail_errno(err, (enum un_step)received->message.step, received->message.detail);
    err->cause = un_cause_find(received->message.cause, &cause) ? cause.id : NULL;
    return -1;
}

int un_fail_ended(int pidfd, struct un_error *err)
{
    siginfo_t how;
    /* SIGSYS means that a seccomp filter has killed the child. */
    if (un_kill_and_reap(pidfd, &how) && how.si_code != CLD_EXITED)
        return un_fail(err, UN_STEP_CLONE, 0,
                       how.si_status == SIGSYS ? "seccomp-denies-call" : "child-killed",
                       "the child was killed by signal %d before the command ran", how.si_status);
    return un_fail(err, UN_STEP_CLONE, 0, NULL, "the child ended before the command ran");
}
