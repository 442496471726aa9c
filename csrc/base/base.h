/* Errors, numbers, text, capabilities, files of /proc and /etc; and the headers of libc that nearly
 * every source needs. Internal. */
#ifndef USERNSCTL_BASE_H
#define USERNSCTL_BASE_H

#include "include/usernsctl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- error.c: how the C files record a failure ----------------------------------------------- */

/* Fills in `err`, the detail by printf's rules, and returns -1. Not async-signal-safe. */
int un_fail(struct un_error *err, enum un_step step, int errnum, const char *cause,
            const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The same with errno, a detail that is copied as it is, and no cause. Async-signal-safe. */
int un_fail_errno(struct un_error *err, enum un_step step, const char *detail);

/* Returns what glibc's strerror() returns, in every libc: musl has other words for some, and users
 * look for a message by its words. */
const char *un_errno_text(int errnum);

/* ---- text: comparing texts where there is no libc -------------------------------------------- */

/* Returns whether `text` begins with `start`. */
static inline bool un_begins(const char *text, const char *start)
{
    while (*start && *text == *start) {
        text++;
        start++;
    }
    return !*start;
}

/* ---- number.c: decimal numbers, where nothing but digits may be, or where there is no libc --- */

/* Reads decimal digits up to the first byte that is none. Returns what follows them; NULL: there
 * is none, or the number is more than `most`. Async-signal-safe. */
const char *un_number_read(const char *text, uint64_t most, uint64_t *number);

/* Writes a number of at most 20 digits, ends it with NUL, and returns where that is.
 * Async-signal-safe. */
char *un_number_write(char *to, uint64_t number);

/* ---- utf8.c: UTF-8, read strictly ------------------------------------------------------------ */

/* Returns the length of the character that `text` begins with, which is no ASCII; 0 if it is not
 * UTF-8: half of a surrogate pair, too great, or written longer than it need be (RFC 3629). */
size_t un_utf8_read(const char *text, uint32_t *code);

/* What stands in the place of a byte that is not UTF-8: U+FFFD. */
#define UN_REPLACEMENT "\xef\xbf\xbd"

/* ---- printable.c: text from others, made fit for a terminal ---------------------------------- */

/* Makes one line of `text`, in place, in which nothing speaks to a terminal: white space becomes a
 * space, and each other control character, invisible or bidirectional formatting character and byte
 * that is not UTF-8 becomes a question mark. usernsctl/_text.py has the same rule for Python. */
void un_make_printable(char *text);

/* So many characters of somebody else's words are quoted. */
#define UN_QUOTED_MAX 300
/* The room for that: each may become ten bytes; and three dots, two quotation marks, a NUL. */
#define UN_QUOTED_ROOM (UN_QUOTED_MAX * 10 + 6)

/* Writes somebody else's words in quotation marks that they can't end, in one line in which nothing
 * speaks to a terminal: what does is written as an escape. quoted() in usernsctl/explain/logs.py
 * has the same rule. */
void un_quote(const char *text, char quoted[UN_QUOTED_ROOM]);

/* ---- cleanup: what the end of a block releases, with errno unchanged ------------------------- */

/* Before the type of a local variable: un_auto_close int fd = ...; Not in a function whose child
 * shares the memory of its parent. */
#define un_auto_close __attribute__((cleanup(un_release_fd)))
#define un_auto_fclose __attribute__((cleanup(un_release_file)))
#define un_auto_free __attribute__((cleanup(un_release_memory)))

/* Closes a descriptor unless it is -1. */
static inline void un_close_quietly(int fd)
{
    int errnum = errno;
    if (fd >= 0)
        close(fd);
    errno = errnum;
}

static inline void un_release_fd(const int *fd)
{
    un_close_quietly(*fd);
}

static inline void un_release_file(FILE *const *file)
{
    int errnum = errno;
    if (*file)
        fclose(*file);
    errno = errnum;
}

/* `memory` is the address of a pointer of any type. */
static inline void un_release_memory(const void *memory)
{
    int errnum = errno;
    free(*(void *const *)memory);
    errno = errnum;
}

/* ---- files.c: paths, and reading and writing files ------------------------------------------- */

/* Writes DIRECTORY/NAME. -1 with ENAMETOOLONG. */
int un_path_join(char path[UN_PATH_MAX], const char *directory, const char *name);
/* Returns whether a path is `top`, or below it. */
bool un_is_below(const char *path, const char *top);

#define UN_FD_PATH_MAX 32
/* Returns `path`, with the path that an open file has in /proc/self/fd. */
const char *un_fd_path(int fd, char path[UN_FD_PATH_MAX]);

/* Opens an open file anew, for what O_PATH is not good for. Returns a descriptor, or -1. */
int un_reopen(int fd, int flags);

/* Reads up to the end, or as much as fits. Returns how many bytes, or -1 with errno. */
ssize_t un_read_all(int fd, char *bytes, size_t size);

/* Reads a file, as un_read_all() does, and ends it with NUL. */
ssize_t un_read_file(int directory, const char *name, char *text, size_t size);

/* Writes all, in as many pieces as that takes. Returns 0, or -1 with errno. */
int un_write_all(int fd, const char *from, size_t size);

/* Returns the number in the first line of a file that begins with `key`, such as "oom_kill "; -1
 * with errno, EBADMSG if there is no such line. */
int64_t un_field_number(const char *path, const char *key);

/* ---- clock.c: the time that deadlines count -------------------------------------------------- */

/* By CLOCK_MONOTONIC. */
int64_t un_now_ms(void);

/* ---- path: the files that a command's name may stand for, without libc ----------------------- */

/* What execvp(3) searches where PATH is not set: the current directory is not in it. */
#define UN_DEFAULT_PATH "/bin:/usr/bin"

/* Where the programs of the system are that we start on our own account. */
#define UN_SYSTEM_PATH "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

static inline bool un_has_slash(const char *name)
{
    while (*name && *name != '/')
        name++;
    return *name == '/';
}

/*
 * Writes the next candidate for `name` into `path`, and moves *at behind the directory that it is
 * in; false once there is none. *at starts at a list of directories, separated by colons; an empty
 * one is the current directory. What is too long to be a path is passed over.
 */
static inline bool un_next_candidate(const char **at, const char *name, char path[PATH_MAX])
{
    while (*at) {
        const char *from = *at;
        size_t length = 0;
        for (; *from && *from != ':'; from++)
            if (length < PATH_MAX)
                path[length++] = *from;
        *at = *from ? from + 1 : NULL;
        if (length && length < PATH_MAX)
            path[length++] = '/';
        for (const char *letter = name; *letter; letter++)
            if (length < PATH_MAX)
                path[length++] = *letter;
        if (length < PATH_MAX) {
            path[length] = '\0';
            return true;
        }
    }
    return false;
}

/* ---- lines.c: reading the files of /etc line by line, with few system calls ------------------ */

/* No name is this long; what is longer is no line of such a file. */
#define UN_LINE_MAX 1024

/* A file that is being read. */
struct un_lines {
    int fd;
    int errnum;       /* why no more could be read; 0: nothing was in the way */
    uint64_t size;    /* the file's, when it was opened */
    uint64_t read;    /* how much of it was read */
    size_t at;        /* what of the block was taken ... */
    size_t length;    /* ... of what there is in it */
    char block[8192]; /* most such files are shorter */
};

/* Opens a regular file. Returns false with errno, EISDIR or EINVAL if it is none: in the /etc of a
 * stranger's image there may be a FIFO, that nobody ever writes to, or a device that has no end.
 * The file has no lines then. */
bool un_lines_open(struct un_lines *lines, const char *path);

/* Returns whether errno says that a path is no regular file. */
bool un_lines_is_no_file(int errnum);

/* Reads a line without its newline. Returns false at the end. What does not fit is dropped, and
 * *cut set. */
bool un_lines_next(struct un_lines *lines, char line[UN_LINE_MAX], bool *cut);

/* Goes back to the first line. */
void un_lines_rewind(struct un_lines *lines);

/* Keeps errno. Does nothing where the file could not be opened. */
void un_lines_close(const struct un_lines *lines);
#define un_auto_lines __attribute__((cleanup(un_lines_close)))

/* ---- mounts.c: what is mounted where --------------------------------------------------------- */

/* Which directory of which file system is where (proc_pid_mountinfo(5)). */
struct un_mounted {
    int id;
    const char *device;  /* of the file system, MAJOR:MINOR */
    const char *root;    /* the directory of it that is mounted */
    const char *point;   /* where, as this process sees it */
    const char *type;    /* of the file system */
    const char *options; /* of the file system */
};

/* All mounts that a process sees. */
struct un_mounts {
    char *text;
    struct un_mounted *mount;
    size_t count;
};

/* Reads a file such as /proc/self/mountinfo; to be freed in any case. -1 with errno. */
int un_mounts_read(struct un_mounts *mounts, const char *path);
void un_mounts_free(const struct un_mounts *mounts);
#define un_auto_mounts __attribute__((cleanup(un_mounts_free)))
/* Finds the mount that an open file was reached by: NULL if it is one of another mount namespace.
 * -1 with errno. */
int un_mounts_find(const struct un_mounts *mounts, int fd, const struct un_mounted **found);

/* ---- procfile.c: small facts that tell one cause of an errno from another -------------------- */

/* Returns the number in a file below `proc`, such as "sys/user/max_user_namespaces", or -1. */
int64_t un_proc_number(const char *proc, const char *file);
/* Returns the number in the line of PROC/self/status that begins with `key`, such as "Seccomp:". */
int64_t un_proc_status(const char *proc, const char *key);
/* Returns whether PROC/self/mountinfo has a mount whose mount point is `point`, or, with `below`,
 * one below it that hides something. */
bool un_proc_has_mount(const char *proc, const char *point, bool below);
/* Returns whether this process and process 1 have the same root directory. Each sees the mount
 * points as they are below its own: so a chroot into a mount point shows, too. */
bool un_proc_shares_root(const char *proc);

/* Returns whether a mount of proc hides the processes of others (proc(5), hidepid). */
bool un_proc_hides(const char *proc);

/* Reads the label that AppArmor has for a process, such as "unconfined" or "NAME (enforce)"; `who`
 * is "self" or a number. Returns false if AppArmor has none, or it can't be read. */
bool un_proc_apparmor(const char *proc, const char *who, char *label, size_t size);

/* Our place in a hierarchy of control groups, such as "/a/b" (cgroups(7), PROC/self/cgroup): of
 * the one in version 1 that this controller alone has, or, for "", of version 2. In a container
 * the path may be that of the host. Returns false if there is none. */
bool un_proc_cgroup(const char *proc, const char *controller, char *path, size_t size);

/* ---- caps.c: capabilities, by the bare system calls ------------------------------------------ */

/* Version 3 splits each set of 64 bits in two words, the lower one first. */
struct un_cap_sets {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

/* capget(2) and capset(2) of this thread. -1 with errno. Async-signal-safe. */
int un_caps_get(struct un_cap_sets *sets);
int un_caps_set(struct un_cap_sets *sets);

/* Reads the effective capabilities of this thread, bit N for capability N. -1 with errno. */
int un_caps_effective(uint64_t *caps);

/* Takes capabilities from the bounding set. -1 with errno. Async-signal-safe. */
int un_caps_drop_bounding(uint64_t dropped);

/* Makes every permitted capability inheritable and ambient, so that exec keeps it (Linux 4.3,
 * capabilities(7)). -1 with errno. Async-signal-safe. */
int un_caps_keep(void);

/* ---- notice.c: struct un_notices ------------------------------------------------------------- */

/* Adds a notice by printf's rules, cut to its room. */
void un_notice(struct un_notices *notices, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
