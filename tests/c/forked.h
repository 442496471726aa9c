/* Functions that run a part of a test in a child process, because the part changes the process
 * irreversibly. */
#ifndef FORKED_H
#define FORKED_H

#include "check.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

/* Waits for the exit of a child. Returns its exit status, or 128+N if signal N killed it. */
static inline int wait_for(pid_t pid)
{
    int status;
    pid_t waited;
    while ((waited = waitpid(pid, &status, __WALL)) < 0 && errno == EINTR)
        continue;
    CHECK_INT(waited, pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Calls `run` in a child process, which exits with the result of `run`. Returns the exit status. */
static inline int forked(int (*run)(void *), void *arg)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(run(arg));
    return wait_for(pid);
}

/* Runs a test in a child process, and checks that it succeeds there. */
static inline void check_in_child(void (*test)(void))
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        test();
        _exit(0);
    }
    CHECK_INT(wait_for(pid), 0);
}

/* Checks that this process has no children, not even zombies. */
static inline void check_no_child_left(void)
{
    CHECK_INT(waitpid(-1, NULL, __WALL | WNOHANG), -1);
    CHECK_INT(errno, ECHILD);
}

#endif
