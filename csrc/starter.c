#include "starter.h"

#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int starter_fail(const char *what)
{
    perror(what);
    return STARTER_FAILED;
}

int starter_exit_status(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static _Noreturn void become(char **argv, const sigset_t *mask)
{
    sigprocmask(SIG_SETMASK, mask, NULL);
    execve(argv[0], argv, environ);
    perror(argv[0]);
    _exit(STARTER_FAILED);
}

pid_t starter_start(char **argv, int *signals)
{
    sigset_t child, before;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    *signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (*signals < 0) {
        starter_fail("signalfd");
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0)
        become(argv, &before);
    if (pid < 0)
        starter_fail("fork");
    for (int fd = 0; pid > 0 && fd < 3; fd++)
        close(fd);
    return pid;
}
