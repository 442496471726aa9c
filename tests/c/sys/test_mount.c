/* Tests of mounting by descriptor, in a mount namespace of their own. */
#include "check.h"
#include "forked.h"
#include "needs.h"
#include "seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct un_error err;

#define READ_ONLY 1 /* MOUNT_ATTR_RDONLY of linux/mount.h */

static int open_path(const char *path)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK_INT(write(fd, text, strlen(text)), (long long)strlen(text));
    close(fd);
}

/* Enters new namespaces, mounts a tmpfs and changes to it. Creates two directories there, the first
 * of which contains another mount. */
static void enter_own(void)
{
    char text[32];
    unsigned uid = geteuid(), gid = getegid();
    CHECK_INT(unshare(CLONE_NEWUSER | CLONE_NEWNS), 0);
    write_text("/proc/self/setgroups", "deny");
    snprintf(text, sizeof text, "0 %u 1", uid);
    write_text("/proc/self/uid_map", text);
    snprintf(text, sizeof text, "0 %u 1", gid);
    write_text("/proc/self/gid_map", text);
    CHECK_OK(un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, &err), &err);
    CHECK_OK(un_mount("test", "/proc", "tmpfs", 0, NULL, &err), &err);
    CHECK_INT(chdir("/proc"), 0);
    CHECK_INT(mkdir("source", 0700), 0);
    CHECK_INT(mkdir("target", 0700), 0);
    CHECK_INT(mkdir("source/below", 0700), 0);
    CHECK_OK(un_mount("test", "source/below", "tmpfs", 0, NULL, &err), &err);
}

static int make(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

static void a_bind_is_read_only_with_all_mounts_below(void)
{
    enter_own();
    CHECK_INT(make("source/file"), 0);
    int source = open_path("source"), target = open_path("target");
    CHECK_OK(un_bind(source, target, READ_ONLY, "it", &err), &err);
    CHECK_INT(access("target/file", F_OK), 0);
    CHECK_INT(make("target/new"), EROFS);
    CHECK_INT(make("target/below/new"), EROFS);
    /* The bind mount is read-only, but its source stays writable. */
    CHECK_INT(make("source/new"), 0);
    CHECK_INT(make("source/below/new"), 0);
}

static void a_bind_uses_descriptors_not_paths(void)
{
    enter_own();
    CHECK_INT(make("source/file"), 0);
    int source = open_path("source"), target = open_path("target");
    CHECK_INT(rename("source", "away"), 0);
    CHECK_INT(rename("target", "there"), 0);
    CHECK_INT(symlink("/", "source"), 0);
    CHECK_INT(symlink("/", "target"), 0);
    CHECK_OK(un_bind(source, target, 0, "it", &err), &err);
    CHECK_INT(access("there/file", F_OK), 0);
    CHECK_INT(access("/proc/file", F_OK), -1);
}

static void a_tree_is_restricted_later(void)
{
    enter_own();
    int source = open_path("source"), target = open_path("target");
    CHECK_OK(un_bind(source, target, 0, "it", &err), &err);
    CHECK_INT(make("target/new"), 0);
    int top = open_path("target");
    CHECK_OK(un_mount_restrict(top, READ_ONLY, 0, "it", &err), &err);
    CHECK_INT(make("target/newer"), EROFS);
    CHECK_INT(make("target/below/newer"), EROFS);
    CHECK_OK(un_mount_restrict(top, 0, READ_ONLY, "it", &err), &err);
    CHECK_INT(make("target/newer"), 0);
}

static void files_of_different_types_are_rejected(void)
{
    enter_own();
    CHECK_INT(make("file"), 0);
    int directory = open_path("source"), file = open_path("file");
    CHECK_INT(un_bind(file, directory, 0, "the name", &err), -1);
    CHECK(err.errnum == EINVAL || err.errnum == ENOTDIR);
    CHECK_TEXT(err.detail, "the name");
    CHECK(!err.cause);
    CHECK_INT(un_bind(-1, directory, 0, "the name", &err), -1);
    CHECK_INT(err.errnum, EBADF);
    CHECK_INT(un_mount_restrict(directory, READ_ONLY, 0, "the name", &err), -1);
    CHECK_INT(err.errnum, EINVAL);
}

struct refusal {
    unsigned call;
    int errnum;
};

static int a_seccomp_filter_has_its_own_cause(void *arg)
{
    const struct refusal *refusal = arg;
    enter_own();
    int source = open_path("source"), target = open_path("target");
    refuse_call(refusal->call, refusal->errnum);
    CHECK_INT(un_bind(source, target, READ_ONLY, "it", &err), -1);
    CHECK_INT(err.errnum, refusal->errnum);
    CHECK_TEXT(err.cause, "mount-by-descriptor-missing");
    CHECK_INT(access("target/below", F_OK), -1);
    return 0;
}

int main(void)
{
    static void (*const parts[])(void) = {
        a_bind_is_read_only_with_all_mounts_below,
        a_bind_uses_descriptors_not_paths,
        a_tree_is_restricted_later,
        files_of_different_types_are_rejected,
    };
    /* open_tree(2), move_mount(2) and mount_setattr(2) have these numbers on all architectures. */
    static const unsigned calls[] = {428, 429, 442};
    need_user_namespaces();
    for (size_t i = 0; i < COUNT(parts); i++)
        check_in_child(parts[i]);
    for (size_t i = 0; i < COUNT(calls); i++) {
        struct refusal with_eperm = {calls[i], EPERM}, with_enosys = {calls[i], ENOSYS};
        CHECK_INT(forked(a_seccomp_filter_has_its_own_cause, &with_eperm), 0);
        CHECK_INT(forked(a_seccomp_filter_has_its_own_cause, &with_enosys), 0);
    }
    check_no_child_left();
    return 0;
}
