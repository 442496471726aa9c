/* Creating, mapping and entering namespaces, and starting commands in them. Internal. */
#ifndef USERNSCTL_NS_H
#define USERNSCTL_NS_H

#include "child/child.h"
#include "sys/sys.h"

/* ---- start_child.c: starting the child program and receiving its messages -------------------- */

struct un_start {
    const char *program; /* path of the child program */
    int cgroup; /* directory descriptor of the cgroup for the child; -1 for the caller's cgroup */
    bool has_second; /* whether the child forks a second child (un_task_has_second()) */
    bool is_empty;   /* whether the child inherits only the descriptors in the task */
    int timeout_ms;  /* timeout in milliseconds until the last message of the child; -1 for none */
    /* Unless is_empty is set, the child calls prepare(arg, err) before it executes the child
     * program. The function must be async-signal-safe. */
    int (*prepare)(const void *arg, struct un_error *err);
    const void *arg;
    const char *const *environment; /* environment of the command; NULL for an empty environment */
    /* un_start_child() sets the following fields. */
    pid_t pid;
    int pidfd;
    int socket;       /* socket from which to receive the child's messages */
    int64_t deadline; /* time (un_now_ms()) at which the timeout expires */
};

/* Starts a child that executes the child program. Returns 0 once the child program runs and can
 * send messages. On failure, fills in `err` and returns -1. */
int un_start_child(struct un_start *start, const struct un_task *task, struct un_error *err);

/* A message from the child program, with the descriptors that were sent with it. */
struct un_received {
    struct un_message message;
    pid_t sender; /* the sender's pid in this process's PID namespace; 0 if SO_PASSCRED is not set
                     on the socket */
    int fd[UN_MESSAGE_FDS];
    size_t fd_count;
};

/* Kills and reaps the child, and closes its pidfd. */
void un_end_child(const struct un_start *start);

/* Waits for the next message from the child. Returns 1 for a message, whose descriptors the caller
 * must close. Returns 0 at end of file, which means that the child has executed the command or has
 * exited. Returns -1 on error. After EMFILE or EPROTO, the next call may succeed; after ETIMEDOUT
 * it can't. */
int un_receive_message(const struct un_start *start, struct un_received *received,
                       struct un_error *err);
/* Fills in `err` from a UN_MESSAGE_FAILED message. Returns -1. */
int un_received_failure(const struct un_received *received, struct un_error *err);
/* Kills and reaps a child that has stopped sending messages. Fills in `err` with the signal that
 * killed the child, or with the child's exit status. Returns -1. */
int un_fail_ended(int pidfd, struct un_error *err);

#endif
