/* Functions for tests that run in new namespaces, with a scratch directory on a tmpfs that exists
 * only there. */
#ifndef INSIDE_H
#define INSIDE_H

#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static inline void write_to(const char *path, const char *text, int flags)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
    CHECK(fd >= 0);
    CHECK_INT(write(fd, text, strlen(text)), (long long)strlen(text));
    close(fd);
}

static inline void make_file(const char *path, const char *text, mode_t mode)
{
    write_to(path, text, O_CREAT | O_EXCL);
    CHECK_INT(chmod(path, mode), 0);
}

static inline void make_directory(const char *path, mode_t mode)
{
    CHECK_INT(mkdir(path, 0700), 0);
    CHECK_INT(chmod(path, mode), 0);
}

/* Enters a new mount namespace and a new user namespace, in which this process is root. Mounts an
 * empty tmpfs on /tmp, creates /tmp/scratch, and changes to /tmp. */
static inline void enter_inside(void)
{
    struct un_error err;
    char text[32];
    unsigned uid = geteuid(), gid = getegid();
    CHECK_INT(unshare(CLONE_NEWUSER | CLONE_NEWNS), 0);
    write_to("/proc/self/setgroups", "deny", 0);
    snprintf(text, sizeof text, "0 %u 1", uid);
    write_to("/proc/self/uid_map", text, 0);
    snprintf(text, sizeof text, "0 %u 1", gid);
    write_to("/proc/self/gid_map", text, 0);
    CHECK_OK(un_mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL, &err), &err);
    CHECK_OK(un_mount("test", "/tmp", "tmpfs", 0, "mode=0755", &err), &err);
    CHECK_INT(chdir("/tmp"), 0);
    make_directory("scratch", 0755);
}

/* Returns how many descriptors this process has open. */
static inline int count_fds(void)
{
    int count = 0;
    DIR *listing = opendir("/proc/self/fd");
    CHECK(listing != NULL);
    while (readdir(listing))
        count++;
    closedir(listing);
    return count;
}

static inline int count_mounts(void)
{
    int count = 0, letter;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    CHECK(file != NULL);
    while ((letter = fgetc(file)) != EOF)
        count += letter == '\n';
    fclose(file);
    return count;
}

/* Returns the content of a file, or "" if the file can't be read. */
static inline const char *read_text(const char *path)
{
    static char text[8192];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[got > 0 ? got : 0] = '\0';
    if (fd >= 0)
        close(fd);
    return text;
}

static inline mode_t mode_of(const char *path)
{
    struct stat status;
    CHECK_INT(lstat(path, &status), 0);
    return status.st_mode & 07777;
}

#endif
