/* Waiting for a child until it ends, and passing signals on to it. Internal. */
#ifndef USERNSCTL_SYS_PASS_ON_H
#define USERNSCTL_SYS_PASS_ON_H

#include "include/usernsctl.h"

#include <signal.h>

/* Passes a signal that we got on to the child, which can't have been waited for yet. */
typedef void un_pass_on(pid_t child, const siginfo_t *info, void *arg);

/*
 * By kill(2), unless the child has it already: what the kernel sends to our process group reaches
 * the child too while it is in that group. These are SIGINT, SIGQUIT, SIGTSTP and SIGWINCH from the
 * terminal; SIGTTIN and SIGTTOU, for touching it from the background; and SIGHUP and SIGCONT when
 * the leader of our session ends, or our group is orphaned. But a terminal that hangs up sends
 * SIGHUP and SIGCONT to the leader of the session alone: where that is us, they are passed on. So
 * is all else of the kernel's, such as the SIGALRM of alarm(2): it is for one process only.
 */
un_pass_on un_pass_on_by_kill;

/* A child that is waited for. */
struct un_watched {
    pid_t pid;
    int report;      /* a pipe to write each status of the child to (int), or -1 */
    int reports;     /* if the child is un_be_init(): the other end of its `report`, or -1 */
    bool stopped;    /* whether the command is stopped */
    bool ended;      /* whether the child has ended */
    bool has_status; /* whether the command has ended */
    int wait_status; /* then: how, as waitpid(2) gives it */
};

/*
 * Passes signals on to the child until it ends. All signals must be blocked (un_block_signals()),
 * and SIGCHLD not be ignored. Where the command stops we stop, so that our shell does not take us
 * for running. All other children are waited for as well, as is the duty of process 1: orphans
 * become its children. Process 1 does not stop: nobody waits for that, and the kernel lets it not.
 */
void un_pass_on_until_end(struct un_watched *child, un_pass_on *pass_on, void *arg);

/* Takes the signals that are pending, and forgets them: they were for a child that has ended. */
void un_discard_signals(void);

#endif
