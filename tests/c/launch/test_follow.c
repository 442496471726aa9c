/* Tests of which symbolic links are followed, depending on the link's owner. The kernel shows every
 * owner that the user namespace does not map as the same overflow id. */
#include "forked.h"
#include "inside.h"
#include "launch/launch.h"
#include "needs.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/xattr.h>

static void only_directories_of_root_are_trusted(void)
{
    static const char *const trusted[] = {
        "/", "/bin", "/tmp", "/usr/lib/x", "/etc/alternatives/x", "/var/tmp", "/run/user",
    };
    static const char *const others[] = {
        "/tmp/x", "/home/user", "/var/tmp/x", "/run/user/1000", "/opt/x",
    };
    struct stat root;
    if (geteuid() == 0) {
        CHECK_INT(setresuid(12345, 12345, 12345), 0);
        CHECK_INT(prctl(PR_SET_DUMPABLE, 1), 0);
    }
    enter_inside();
    CHECK_INT(stat("/", &root), 0);
    CHECK(root.st_uid != 0);
    for (size_t i = 0; i < COUNT(trusted); i++)
        CHECK(un_owner_is_trusted(root.st_uid, trusted[i]));
    for (size_t i = 0; i < COUNT(others); i++)
        CHECK(!un_owner_is_trusted(root.st_uid, others[i]));
    CHECK(un_owner_is_trusted(0, "/opt/x"));
    CHECK(!un_owner_is_trusted(12345, "/etc/x"));
}

/* Checks whether the group 12345 counts as private to the caller, for several lines of group(5). */
static void only_groups_without_members_are_private(void)
{
    static const struct {
        const char *line;
        bool is_private;
    } groups[] = {
        {"", true},
        {"own:x:12345:\n", true},
        {"own:x:12345:other\n", false},
        {"own::12345:other\n", false},
        {"other:x:1:other\nown:x:12345:other", false},
        {"other:x:123456:other\nown:x:12345\nown\n", true},
    };
    CHECK_INT(unshare(CLONE_NEWNS), 0);
    CHECK_INT(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_INT(mount("none", "/tmp", "tmpfs", 0, NULL), 0);
    int file = open("/tmp/group", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CHECK(file >= 0);
    CHECK_INT(mount("/tmp/group", "/etc/group", NULL, MS_BIND, NULL), 0);
    CHECK_INT(setresgid(12345, 12345, 12345), 0);
    CHECK_INT(setresuid(12345, 12345, 12345), 0);
    for (size_t i = 0; i < COUNT(groups); i++) {
        size_t length = strlen(groups[i].line);
        CHECK_INT(ftruncate(file, 0), 0);
        CHECK_INT(pwrite(file, groups[i].line, length, 0), (ssize_t)length);
        CHECK_INT(un_group_is_private(12345), groups[i].is_private);
        CHECK(un_group_is_private(0));
        CHECK(!un_group_is_private(12346));
    }
    close(file);
}

/* Sets an access ACL with one named entry on a directory. `mask` is the mask of the ACL, which
 * stat(2) shows as the group bits of the mode. */
static void set_list(const char *path, uint16_t tag, uint16_t permissions, uint16_t mask)
{
    struct {
        struct posix_acl_xattr_header header;
        struct posix_acl_xattr_entry entry[5];
    } list = {
        .header = {htole32(POSIX_ACL_XATTR_VERSION)},
        .entry = {{htole16(ACL_USER_OBJ), htole16(7), 0},
                  {htole16(tag), htole16(permissions), htole32(tag == ACL_USER ? 54321 : 54322)},
                  {htole16(ACL_GROUP_OBJ), htole16(5), 0},
                  {htole16(ACL_MASK), htole16(mask), 0},
                  {htole16(ACL_OTHER), htole16(5), 0}}};
    /* The kernel requires the entry of the owning group before that of a named group. */
    if (tag == ACL_GROUP) {
        struct posix_acl_xattr_entry named = list.entry[1];
        list.entry[1] = list.entry[2];
        list.entry[2] = named;
    }
    CHECK_INT(setxattr(path, "system.posix_acl_access", &list, sizeof list, 0), 0);
}

/* Checks that un_others_may_write() detects an ACL that lets others write, on a directory that
 * belongs to the caller and the caller's private group. */
static void an_acl_may_let_others_write(void)
{
    static const struct {
        uint16_t tag, permissions, mask;
        bool may_write;
    } lists[] = {
        {ACL_USER, 7, 7, true},  {ACL_GROUP, 7, 7, true},  {ACL_USER, 2, 2, true},
        {ACL_USER, 5, 7, false}, {ACL_GROUP, 5, 7, false}, {ACL_USER, 7, 5, false},
    };
    char path[] = "/tmp/test-follow-XXXXXX";
    CHECK_INT(setresgid(12345, 12345, 12345), 0);
    CHECK_INT(setresuid(12345, 12345, 12345), 0);
    CHECK(mkdtemp(path));
    int directory = open(path, O_PATH | O_CLOEXEC);
    CHECK(directory >= 0);
    CHECK(!un_others_may_write(directory));
    CHECK_INT(chmod(path, 0775), 0);
    CHECK(!un_others_may_write(directory));
    for (size_t i = 0; i < COUNT(lists); i++) {
        set_list(path, lists[i].tag, lists[i].permissions, lists[i].mask);
        CHECK_INT(un_others_may_write(directory), lists[i].may_write);
    }
    CHECK_INT(removexattr(path, "system.posix_acl_access"), 0);
    CHECK_INT(chmod(path, 0757), 0);
    CHECK(un_others_may_write(directory));
    close(directory);
    CHECK(un_others_may_write(directory));
    CHECK_INT(rmdir(path), 0);
}

static void only_the_group_of_the_users_uid_is_private(void)
{
    CHECK_INT(setresgid(12346, 12346, 12346), 0);
    CHECK_INT(setresuid(12345, 12345, 12345), 0);
    CHECK(!un_group_is_private(12346));
    CHECK(!un_group_is_private(12345));
}

/* Opens a path by un_open_follow(), one component after the other. Checks that open(2) opens the
 * same file or fails with the same errno. */
static void opens_what_the_kernel_opens(const char *path)
{
    char real[UN_PATH_MAX];
    struct stat found, wanted;
    int64_t foreign;
    int fd = un_open_follow(path, real, &foreign), failed = errno;
    int kernel = open(path, O_PATH | O_CLOEXEC);
    if (kernel < 0) {
        CHECK_INT(failed, errno);
        CHECK_INT(fd, -1);
        return;
    }
    CHECK(fd >= 0);
    CHECK_INT(fstat(fd, &found), 0);
    CHECK_INT(fstat(kernel, &wanted), 0);
    CHECK(found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino);
    close(fd);
    close(kernel);
}

static void paths_below_a_file_fail_as_in_the_kernel(void)
{
    static const char *const files[] = {"/etc/passwd", "/bin/sh", "/dev/null", "/etc", "/", "/no"};
    static const char *const ends[] = {"", "/", "/.", "/..", "/../passwd", "//../", "/./x"};
    char path[64];
    for (size_t i = 0; i < COUNT(files); i++)
        for (size_t j = 0; j < COUNT(ends); j++) {
            snprintf(path, sizeof path, "%s%s", files[i], ends[j]);
            opens_what_the_kernel_opens(path);
        }
}

int main(void)
{
    paths_below_a_file_fail_as_in_the_kernel();
    need_user_namespaces();
    check_in_child(only_directories_of_root_are_trusted);
    if (geteuid() == 0) {
        check_in_child(only_groups_without_members_are_private);
        check_in_child(an_acl_may_let_others_write);
        check_in_child(only_the_group_of_the_users_uid_is_private);
    }
    check_no_child_left();
    return 0;
}
