/* Tests of opening /dev/null. The call must never block, and must fail if another file is mounted
 * on /dev/null. */
#include "needs.h"
#include "sys/sys.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static void the_device_is_opened(void)
{
    static const int modes[] = {O_RDONLY, O_WRONLY, O_RDWR};
    struct stat status;
    for (size_t i = 0; i < COUNT(modes); i++) {
        int fd = un_open_null(modes[i]);
        CHECK(fd >= 0);
        CHECK_INT(fstat(fd, &status), 0);
        CHECK(S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3));
        CHECK_INT(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), modes[i]);
        CHECK_INT(fcntl(fd, F_GETFD), FD_CLOEXEC);
        close(fd);
    }
}

static void check_refused(void)
{
    static const int modes[] = {O_RDONLY, O_WRONLY, O_RDWR};
    for (size_t i = 0; i < COUNT(modes); i++) {
        int next = dup(0);
        close(next);
        CHECK_INT(un_open_null(modes[i]), -1);
        /* ENXIO is the error for a FIFO that no reader has open. */
        CHECK(errno == ENODEV || errno == ENXIO);
        CHECK_INT(dup(0), next);
        close(next);
    }
}

static void a_job_is_run(void)
{
    static const char *const argv[] = {"/bin/sh", "-c", "read line; echo $?", NULL};
    char output[16];
    struct un_job job = {.argv = argv, .output = output, .output_size = sizeof output};
    struct un_error err;
    CHECK_OK(un_run_jobs(&job, 1, 20000, &err), &err);
    CHECK(!job.timed_out);
    CHECK_INT(job.ended, CLD_EXITED);
    CHECK(atoi(output) > 0);
}

/* Mounts another file on /dev/null, as root in a user namespace can. */
static int with_another_file(void *path)
{
    CHECK_INT(unshare(CLONE_NEWUSER | CLONE_NEWNS), 0);
    CHECK_INT(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_INT(mount(path, "/dev/null", NULL, MS_BIND, NULL), 0);
    /* SIGALRM ends the test if open(2) blocks. */
    alarm(30);
    check_refused();
    a_job_is_run();
    return 0;
}

int main(void)
{
    char dir[] = "/tmp/usernsctl-test-XXXXXX", path[2][64];
    need_user_namespaces();
    the_device_is_opened();
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path[0], sizeof path[0], "%s/fifo", dir);
    snprintf(path[1], sizeof path[1], "%s/file", dir);
    CHECK_INT(mkfifo(path[0], 0666), 0);
    close(open(path[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    for (int i = 0; i < 2; i++) {
        CHECK_INT(forked(with_another_file, path[i]), 0);
        CHECK_INT(unlink(path[i]), 0);
    }
    CHECK_INT(forked(with_another_file, (void *)(uintptr_t)"/dev/zero"), 0);
    CHECK_INT(rmdir(dir), 0);
    return 0;
}
