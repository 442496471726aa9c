/* Creating, mapping and entering namespaces, and starting commands inside. Internal. */
#ifndef USERNSCTL_NS_H
#define USERNSCTL_NS_H

#include "child/child.h"
#include "sys/sys.h"

/* ---- start_child.c: starting the child program and receiving its messages -------------------- */

struct un_start {
    const char *program; /* path of the child program */
    int cgroup;      /* descriptor of the cgroup in which to start the child; -1 means the caller's
                        cgroup */
    bool has_second; /* whether the child forks a second child, see un_task_has_second() */
    bool is_empty;   /* whether the child inherits only the descriptors of the task */
    int timeout_ms;  /* timeout in milliseconds for all messages together; -1 means none */
    /* Callback in the child before the child program is executed, unless is_empty is set. */
    int (*prepare)(const void *arg, struct un_error *err); /* must be async-signal-safe */
    const void *arg;
    const char *const *environment; /* environment of the command; NULL means empty */
    /* un_start_child() stores the pid, pidfd, socket and deadline of the child in the following
     * fields. */
    pid_t pid;
    int pidfd;
    int socket;       /* socket on which the child's messages are received */
    int64_t deadline; /* time (un_now_ms()) at which the timeout expires */
};

/* Executes the child program in a child process. Returns 0 once the child runs and has a socket for
 * its messages, or -1 after filling in `err`. */
int un_start_child(struct un_start *start, const struct un_task *task, struct un_error *err);

/* A message received from the child, with its descriptors. */
struct un_received {
    struct un_message message;
    pid_t sender; /* pid of the message's sender in this process's PID namespace, if the socket has
                     SO_PASSCRED */
    int fd[UN_MESSAGE_FDS];
    size_t fd_count;
};

/* Kills the child, reaps it, and closes its pidfd. */
void un_end_child(const struct un_start *start);

/* Waits for the next message of the child. Returns 1 for a message, whose descriptors the caller
 * must close; 0 at end of file, after the child has executed the command or exited; -1 after an
 * error. After EMFILE or EPROTO, more messages may follow; after ETIMEDOUT, none will be
 * received. */
int un_receive_message(const struct un_start *start, struct un_received *received,
                       struct un_error *err);
/* Fills in `err` with the error in a UN_MESSAGE_FAILED message. Returns -1. */
int un_received_failure(const struct un_received *received, struct un_error *err);
/* Fills in `err` for a child that has exited without a message. Returns -1. */
int un_fail_ended(int pidfd, struct un_error *err);

#endif
