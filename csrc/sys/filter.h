/* Seccomp filters that kill. Internal. */
#ifndef USERNSCTL_SYS_FILTER_H
#define USERNSCTL_SYS_FILTER_H

#include "include/usernsctl.h"

enum { UN_TRIED_ARGUMENTS = 5 };

/* A call, with arguments that the kernel refuses, or that change nothing. */
struct un_tried {
    long number;
    long argument[UN_TRIED_ARGUMENTS];
    const char *name;
    enum un_step step;
    const char *cause; /* if a filter kills who makes it */
};

/* Calls that a mount needs, and a user namespace, and to join one. */
extern const struct un_tried un_tried_mounts[5], un_tried_unshare[1], un_tried_setns[1];

/*
 * Fails if a seccomp filter kills whoever makes one of these calls: nobody would be left to say so.
 * They are tried in a child, which is dear, but only a process that has a filter starts one
 * (seccomp(2), SECCOMP_RET_KILL_PROCESS; systemd's SystemCallFilter= is such a filter by default).
 */
int un_survive(const struct un_tried *tried, size_t count, struct un_error *err);
#define UN_SURVIVE(tried, err) un_survive(tried, sizeof(tried) / sizeof(tried)[0], err)

#endif
