/* Functions for C tests that start a command and collect its exit status and output. */
#ifndef SPAWNED_H
#define SPAWNED_H

#include "forked.h"

#include <fcntl.h>

static char child_path[UN_PATH_MAX];

/* Sets child_path to the usernsctl-child in the directory of the test program. A constructor, so
 * that child_path is set before main() starts. */
__attribute__((constructor)) static inline void find_child_program(void)
{
    ssize_t length = readlink("/proc/self/exe", child_path, sizeof child_path - 32);
    CHECK(length > 0);
    child_path[length] = '\0';
    strcpy(strrchr(child_path, '/') + 1, "usernsctl-child");
    CHECK_INT(access(child_path, X_OK), 0);
}

static inline const char *child_program(void)
{
    return child_path;
}

/* Prepares the start of argv[0], with only PATH in its environment and only the descriptors 0 to
 * 2. */
static inline void init_command(struct un_spawn *spawn, const char *const *argv)
{
    static const char *const environment[] = {"PATH=/usr/bin:/bin", NULL};
    un_spawn_init(spawn);
    spawn->command = (struct un_command){argv[0], "/usr/bin:/bin", argv, environment};
    spawn->child = child_program();
    spawn->close_fds = true;
}

/* Starts a command and waits for its exit. Returns its exit status, or 128+N if signal N killed
 * it. */
static inline int status_of(const struct un_spawn *spawn)
{
    struct un_error err;
    pid_t pid = 0;
    int pidfd = -1;
    CHECK_OK(un_spawn(spawn, &pid, &pidfd, &err), &err);
    CHECK(pid > 0);
    CHECK(fcntl(pidfd, F_GETFD) & FD_CLOEXEC);
    close(pidfd);
    return wait_for(pid);
}

/* Starts a command and waits for its exit. Returns its exit status, and stores its standard output
 * in `text`. */
static inline int output_of(struct un_spawn *spawn, char *text, size_t size)
{
    int ends[2];
    CHECK_INT(pipe2(ends, O_CLOEXEC), 0);
    spawn->stdio[1] = ends[1];
    int status = status_of(spawn);
    close(ends[1]);
    ssize_t got = read(ends[0], text, size - 1);
    CHECK(got >= 0);
    text[got] = '\0';
    close(ends[0]);
    return status;
}

#endif
