/* The command line of usernsctl-exec. Internal. */
#ifndef USERNSCTL_EXEC_OPTIONS_H
#define USERNSCTL_EXEC_OPTIONS_H

#include "include/usernsctl.h"

#define UN_KEEP_MAX 64

struct un_options {
    enum { UN_RUN, UN_HELP, UN_VERSION } action;
    bool user; /* a user namespace was asked for, or follows from what was */
    struct un_request request;
    uint64_t flags; /* CLONE_NEW... of the other namespaces */
    bool fork;
    bool reraise_signal; /* whether to end by the signal that killed the command */
    bool init;           /* the command is not process 1 of its PID namespace: we are */
    int hold;            /* where to report to that the namespaces are held; -1: run a command */
    int kill_child;      /* the signal for a child that outlives us */
    unsigned long propagation; /* MS_PRIVATE, MS_SLAVE, MS_SHARED, or 0: unchanged */
    struct un_setup setup;
    int keep[UN_KEEP_MAX]; /* descriptors to pass on: sorted, without doubles */
    size_t keep_count;
    const char *launch;         /* the file of a launch to be performed, or NULL */
    bool check;                 /* whether to perform it but for its last step */
    const char *const *command; /* ends with NULL */
};

/* Reads the command line; argv is permuted by no option, for the command's own are not ours. */
int un_options_parse(int argc, char **argv, struct un_options *options, struct un_error *err);
/* The text of --help. */
extern const char un_options_help[];

#endif
