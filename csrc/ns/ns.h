/* Making, mapping and entering namespaces, and starting commands in them. Internal. */
#ifndef USERNSCTL_NS_H
#define USERNSCTL_NS_H

#include "child/child.h"
#include "sys/sys.h"

/* ---- start_child.c: starting the child program, and hearing it out --------------------------- */

struct un_start {
    const char *program; /* the child program */
    int cgroup;          /* a directory to start in; -1: ours */
    bool has_second;     /* whether it has a child in its place */
    bool is_empty;       /* it gets no descriptor but those of its task */
    int timeout_ms;      /* how long its news may take; -1: for ever */
    /* Else what is done in the child before it executes the program, to what it passes on: */
    int (*prepare)(const void *arg, struct un_error *err); /* async-signal-safe */
    const void *arg;
    const char *const *environment; /* of the command; it is given to nobody else */
    /* Out: */
    pid_t pid;
    int pidfd;
    int socket;       /* where its news come from, ... */
    int64_t deadline; /* ... until then, as un_now_ms() counts */
};

/* Executes the child program in a child. 0: it is there, and will tell how it goes on. */
int un_start_child(struct un_start *start, const struct un_task *task, struct un_error *err);

/* What was told. */
struct un_told {
    struct un_message message;
    pid_t sender; /* of whom it is, where that was asked for: as this process sees it */
    int fd[UN_MESSAGE_FDS];
    size_t fd_count;
};

/* Kills the child and waits for its end; closes its pidfd. */
void un_end_child(const struct un_start *start);

/* Waits for the next news: 1, with descriptors that are the caller's; 0 at the end, when the child
 * has become something else, or has ended; -1: what came is none, and more may come after EMFILE
 * and EPROTO; ETIMEDOUT: its time is over. */
int un_hear(const struct un_start *start, struct un_told *told, struct un_error *err);
/* What a UN_NEWS_FAILED says. Returns -1. */
int un_told_failure(const struct un_told *told, struct un_error *err);
/* Of a child that ended without a word. Returns -1. */
int un_fail_ended(int pidfd, struct un_error *err);

#endif
