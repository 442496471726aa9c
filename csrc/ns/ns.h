/* Creating, mapping and entering namespaces, and starting commands inside. Internal. */
#ifndef USERNSCTL_NS_H
#define USERNSCTL_NS_H

#include "child/child.h"
#include "sys/sys.h"

/* ---- start_child.c: starting the child program and receiving its messages -------------------- */

struct un_start {
    const char *program; /* path of the child program */
    int cgroup;          /* descriptor of a cgroup to start in; -1 means the caller's */
    bool has_second;     /* whether the child forks a second child, see un_task_has_second() */
    bool is_empty;       /* whether the child inherits only the descriptors of the task */
    int timeout_ms;      /* timeout for all messages together; -1 means none */
    /* Unless is_empty, called in the child before it executes the program: */
    int (*prepare)(const void *arg, struct un_error *err); /* async-signal-safe */
    const void *arg;
    const char *const *environment; /* environment of the command; NULL means empty */
    /* Results: */
    pid_t pid;
    int pidfd;
    int socket;       /* receives the messages */
    int64_t deadline; /* end of the timeout, on the clock of un_now_ms() */
};

/* Executes the child program in a child process. Returns 0 once the child runs and has a socket for
 * its messages. */
int un_start_child(struct un_start *start, const struct un_task *task, struct un_error *err);

/* A received message. */
struct un_received {
    struct un_message message;
    pid_t sender; /* pid of the sender in this process's PID namespace, if the socket has
                     SO_PASSCRED */
    int fd[UN_MESSAGE_FDS];
    size_t fd_count;
};

/* Kills the child, reaps it, and closes its pidfd. */
void un_end_child(const struct un_start *start);

/* Waits for the next message. Returns 1 for a message, whose descriptors the caller must close; 0
 * at the end of the socket, after the child has executed the command or exited; -1 for an error.
 * More messages may follow EMFILE and EPROTO, but not ETIMEDOUT. */
int un_receive_message(const struct un_start *start, struct un_received *received,
                       struct un_error *err);
/* Fills in `err` from a UN_MESSAGE_FAILED message. Returns -1. */
int un_received_failure(const struct un_received *received, struct un_error *err);
/* Fills in `err` for a child that has exited without a message. Returns -1. */
int un_fail_ended(int pidfd, struct un_error *err);

#endif
