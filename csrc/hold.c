#include "hold.h"
#include "error.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool send_text(int socket, const char *text)
{
    return send(socket, text, strlen(text), MSG_NOSIGNAL) >= 0;
}

void un_hold_report(int socket, const struct un_error *err)
{
    char text[UN_DETAIL_MAX + 128];
    snprintf(text, sizeof text, "error %s %d %s %s", un_step_name(err->step), err->errnum,
             err->cause ? err->cause : "-", err->detail);
    send_text(socket, text);
}

static ssize_t wait_for_answer(int socket)
{
    char byte;
    ssize_t got;
    do
        got = recv(socket, &byte, 1, 0);
    while (got < 0 && errno == EINTR);
    return got;
}

static int prepare(const struct un_setup *setup, struct un_error *err)
{
    if (un_setup_apply(setup, err))
        return -1;
    /* Whoever may enter the namespaces must be able to open them in /proc, which a change of ids
     * has made root's (PR_SET_DUMPABLE(2const)). */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    /* As process 1 of a PID namespace we are everybody's parent: nobody shall stay a zombie. */
    signal(SIGCHLD, SIG_IGN);
    if (setsid() < 0)
        return un_fail_errno(err, UN_STEP_SESSION, "setsid");
    if (chdir("/"))
        return un_fail_errno(err, UN_STEP_CWD, "/");
    return 0;
}

static _Noreturn void hold(int socket, const struct un_setup *setup)
{
    struct un_error err;
    if (prepare(setup, &err) || un_close_fds(&socket, 1, &err)) {
        un_diagnose(&err, "/proc");
        un_hold_report(socket, &err);
        _exit(125);
    }
    /* A pipe that our caller reads from must end when our caller does. */
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    if (!send_text(socket, "ready") || wait_for_answer(socket) != 1)
        _exit(125);
    /* The name tells a holder that stays from one that is about to end with its creator. */
    prctl(PR_SET_NAME, UN_HOLDER_NAME, 0, 0, 0);
    close(socket);
    for (;;)
        pause();
}

int un_hold(int socket, const struct un_setup *setup, struct un_error *err)
{
    /* Not our child, once we have ended: nobody has to wait for it. */
    pid_t holder = fork();
    if (holder < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "fork");
    if (holder == 0)
        hold(socket, setup);
    char text[32];
    snprintf(text, sizeof text, "pid %d", (int)holder);
    if (send_text(socket, text))
        return 0;
    un_fail_errno(err, UN_STEP_WAIT, "nobody is there to hold the namespace for");
    kill(holder, SIGKILL);
    return -1;
}
