/* Functions for errors, numbers, text, capabilities, and files of /proc and /etc. Includes the libc
 * headers that nearly every source needs. Internal. */
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

/* ---- error.c: recording a failure ------------------------------------------------------------ */

/* Fills in `err` and returns -1. The detail is formatted as by printf(3). The error has no remedy
 * of its own. Not async-signal-safe. */
int un_fail(struct un_error *err, enum un_step step, int errnum, const char *cause,
            const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Fills in `err` from errno and the text `detail`, and returns -1. The error has no cause yet.
 * Async-signal-safe. */
int un_fail_errno(struct un_error *err, enum un_step step, const char *detail);

/* Returns the text of glibc's strerror(3) for an errno, even with musl, because musl's texts differ
 * for some errors, and users search for the exact message. */
const char *un_errno_text(int errnum);

/* ---- text: comparing strings without libc ---------------------------------------------------- */

/* Returns whether `text` begins with `start`. */
static inline bool un_begins(const char *text, const char *start)
{
    while (*start && *text == *start) {
        text++;
        start++;
    }
    return !*start;
}

/* ---- number.c: strict decimal numbers, without libc ------------------------------------------ */

/* Parses decimal digits up to the first byte that is no digit. Returns a pointer to that byte, or
 * NULL if there is no digit or the number exceeds `most`. Async-signal-safe. */
const char *un_number_read(const char *text, uint64_t most, uint64_t *number);

/* Writes a number in decimal (at most 20 digits) to `to`, terminated by NUL, and returns a pointer
 * to the NUL. Async-signal-safe. */
char *un_number_write(char *to, uint64_t number);

/* ---- utf8.c: strict UTF-8 -------------------------------------------------------------------- */

/* Decodes the character at the beginning of `text`, which is not ASCII, into *code. Returns the
 * length of the character in bytes, or 0 for invalid UTF-8: a surrogate, a value above U+10FFFF, or
 * an overlong encoding (RFC 3629). */
size_t un_utf8_read(const char *text, uint32_t *code);

/* U+FFFD in UTF-8, the replacement for a byte that is not UTF-8. */
#define UN_REPLACEMENT "\xef\xbf\xbd"

/* ---- printable.c: making untrusted text safe for a terminal ---------------------------------- */

/* Turns `text`, in place, into one line without control sequences. White space becomes a space. Any
 * other control character, any invisible or bidirectional formatting character, and any byte that
 * is not UTF-8 becomes a question mark. usernsctl/_text.py implements the same rule for Python. */
void un_make_printable(char *text);

/* Maximum number of characters in a quotation of untrusted text. */
#define UN_QUOTED_MAX 300
/* Size of a buffer for a quotation, with ten bytes per character, three dots, two quotation marks
 * and a NUL. */
#define UN_QUOTED_ROOM (UN_QUOTED_MAX * 10 + 6)

/* Writes untrusted text to `quoted` in quotation marks, as one line. Quotation marks, control
 * characters and other characters that a terminal interprets are escaped. quoted() in
 * usernsctl/explain/logs.py has the same rule. */
void un_quote(const char *text, char quoted[UN_QUOTED_ROOM]);

/* ---- cleanup: releasing resources at the end of a block, with errno unchanged ---------------- */

/* Attributes that release the resource of a local variable at the end of the variable's scope, as
 * in: un_auto_close int fd = ...; The attributes must not be used in a function that runs in parent
 * and child with shared memory (vfork(2)), because both would release the resource. */
#define un_auto_close __attribute__((cleanup(un_release_fd)))
#define un_auto_fclose __attribute__((cleanup(un_release_file)))
#define un_auto_free __attribute__((cleanup(un_release_memory)))

/* Closes a descriptor unless it is -1, and preserves errno. */
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

/* Frees the pointer whose address is `memory`. */
static inline void un_release_memory(const void *memory)
{
    int errnum = errno;
    free(*(void *const *)memory);
    errno = errnum;
}

/* ---- files.c: paths, and reading and writing files ------------------------------------------- */

/* Writes the path DIRECTORY/NAME to `path`. Returns 0, or -1 with errno ENAMETOOLONG if the path is
 * too long. */
int un_path_join(char path[UN_PATH_MAX], const char *directory, const char *name);
/* Returns whether a path equals `top` or lies below it. */
bool un_is_below(const char *path, const char *top);

#define UN_FD_PATH_MAX 32
/* Writes the path of an open file in /proc/self/fd into `path`, and returns `path`. */
const char *un_fd_path(int fd, char path[UN_FD_PATH_MAX]);

/* Opens the file of a descriptor again with other flags, such as to read from an O_PATH descriptor.
 * Returns a new descriptor, or -1 with errno set. */
int un_reopen(int fd, int flags);

struct stat;
/* Opens a regular file for reading, and stores its status in `status`. Returns a descriptor, or -1
 * if the file is missing, unreadable, a symbolic link, or of any other type. */
int un_open_regular(const char *path, struct stat *status);

/* Reads a file up to its end, or until the buffer is full. Returns the number of bytes read, or -1
 * with errno set. */
ssize_t un_read_all(int fd, char *bytes, size_t size);

/* Reads the file `name` in `directory` as un_read_all() does, and appends a NUL. */
ssize_t un_read_file(int directory, const char *name, char *text, size_t size);

/* Writes all bytes, with as many calls of write(2) as needed. Returns 0, or -1 with errno set. */
int un_write_all(int fd, const char *from, size_t size);

/* Returns the number in the first line of the file `path` that begins with `key`, such as
 * "MemTotal:". Returns -1 with errno set on failure; EBADMSG means that no line begins with `key`.
 */
int64_t un_field_number(const char *path, const char *key);
/* Returns the number in the first line of /proc/self/fdinfo/FD that begins with `key`, or -1 with
 * errno set. */
int64_t un_fd_info(int fd, const char *key);

/* ---- clock.c: the clock for deadlines -------------------------------------------------------- */

/* Returns the time of CLOCK_MONOTONIC in milliseconds. */
int64_t un_now_ms(void);

/* ---- path: searching PATH, without libc ------------------------------------------------------ */

/* The default search path of execvp(3) if PATH is not set, without the current directory. */
#define UN_DEFAULT_PATH "/bin:/usr/bin"

/* The search path for system programs that this package starts itself. */
#define UN_SYSTEM_PATH "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

static inline bool un_has_slash(const char *name)
{
    while (*name && *name != '/')
        name++;
    return *name == '/';
}

/*
 * Writes the next candidate path for `name` to `path`, and advances *at past the directory of the
 * candidate. Returns false when no directory remains. *at starts as a list of directories separated
 * by colons, in which an empty element is the current directory. Candidates that exceed PATH_MAX
 * are skipped.
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

/* Maximum size of a line in bytes, including the NUL; a longer line is truncated. No user or group
 * name is longer. */
#define UN_LINE_MAX 1024

/* A file that is read line by line. */
struct un_lines {
    int fd;
    int errnum;    /* errno of the read(2) that failed; 0 if none has failed */
    uint64_t size; /* size of the file in bytes when it was opened */
    uint64_t read; /* number of bytes of the file read so far */
    size_t at;     /* number of bytes at the beginning of `block` that un_lines_next() has already
                      returned */
    size_t length; /* number of bytes in `block` */
    char block[8192]; /* the bytes read last; most files of /etc fit completely */
};

/* Opens a regular file. Returns false with errno set on failure. Fails with EISDIR or EINVAL for
 * any other type of file, because a hostile image's /etc may contain a FIFO without a writer, or an
 * endless device. After a failure the file counts as empty. */
bool un_lines_open(struct un_lines *lines, const char *path);

/* Returns whether `errnum`, with which un_lines_open() has failed, means that the path is not a
 * regular file. */
bool un_lines_is_no_file(int errnum);

/* Reads the next line, without its newline. Returns false at the end of the file. If the line is
 * too long, truncates it and sets *cut. */
bool un_lines_next(struct un_lines *lines, char line[UN_LINE_MAX], bool *cut);

/* Returns to the first line of the file, so that un_lines_next() reads it again. */
void un_lines_rewind(struct un_lines *lines);

/* Closes the file, and preserves errno. Does nothing if un_lines_open() has failed. */
void un_lines_close(const struct un_lines *lines);
#define un_auto_lines __attribute__((cleanup(un_lines_close)))

/* ---- accounts.c: users and groups in the content of /etc/passwd and /etc/group --------------- */

#define UN_ACCOUNT_PASSWD "/etc/passwd"
#define UN_ACCOUNT_GROUP "/etc/group"
/* The maximum length of a user or group name, in bytes. LOGIN_NAME_MAX, which counts the NUL,
 * allows 255 (limits.h(0p)). */
#define UN_ACCOUNT_NAME_MAX 256

/* A user and a group as the caller gives them, each as an id or as a name. */
struct un_account_name {
    char user[UN_ACCOUNT_NAME_MAX + 1];
    char group[UN_ACCOUNT_NAME_MAX + 1];
    bool has_group;
};

/* Parses USER[:GROUP]. Returns false if USER or GROUP is neither an id nor a printable name.
 * parse_user() in usernsctl/gvisor/checks.py has the same rule for ids, but also rejects names with
 * a character that str.isprintable() rejects, such as U+00A0. */
bool un_account_parse(const char *text, struct un_account_name *name);
/* Returns whether a user or group, as in struct un_account_name, is given as an id, not as a name.
 */
bool un_account_is_id(const char *name);
/* Sets the error for a file of a sandbox, such as /etc/passwd, that can't be used. `why` follows
 * the path in the message. Returns -1. */
int un_account_fail_file(const char *path, int errnum, const char *why, struct un_error *err);

/* ---- mounts.c: the table of mounts ----------------------------------------------------------- */

/* A mount of a directory of a file system on a mount point (proc_pid_mountinfo(5)). */
struct un_mounted {
    int id;
    int parent;          /* id of the parent mount, on which this mount is mounted */
    const char *device;  /* device number of the file system, MAJOR:MINOR */
    const char *root;    /* path of the mounted directory within the file system */
    const char *point;   /* the mount point, relative to the root directory of this process */
    const char *type;    /* type of the file system, such as "tmpfs" */
    const char *options; /* mount options of the file system */
};

/* All mounts that are visible to a process. */
struct un_mounts {
    char *text;
    struct un_mounted *mount;
    size_t count;
};

/* Reads all mounts from a file such as /proc/self/mountinfo. *mounts must be freed even after a
 * failure. Returns 0, or -1 with errno set. */
int un_mounts_read(struct un_mounts *mounts, const char *path);
void un_mounts_free(const struct un_mounts *mounts);
#define un_auto_mounts __attribute__((cleanup(un_mounts_free)))
/* Returns the mount with the id `id`, or NULL if there is none. */
const struct un_mounted *un_mounts_by_id(const struct un_mounts *mounts, int id);
/* Finds the mount through which a file was opened. *found becomes NULL if the mount belongs to
 * another mount namespace. Returns 0, or -1 with errno set. */
int un_mounts_find(const struct un_mounts *mounts, int fd, const struct un_mounted **found);

/* ---- procfile.c: facts of /proc that distinguish the causes of an errno ---------------------- */

/* Returns the number in a file below `proc`, such as "sys/user/max_user_namespaces", or -1 if the
 * file can't be read. */
int64_t un_proc_number(const char *proc, const char *file);
/* Returns the number in the line of PROC/self/status that begins with `key`, such as "Seccomp:", or
 * -1 if the number can't be read. */
int64_t un_proc_status(const char *proc, const char *key);
/* Returns whether PROC/self/mountinfo lists a mount at `point`, or, if `below` is set, a mount
 * below `point` that hides a file. */
bool un_proc_has_mount(const char *proc, const char *point, bool below);
/* Returns whether this process and PID 1 have the same root directory. This also detects a chroot
 * into a mount point, because mountinfo shows the mount points relative to the root directory of
 * each process. */
bool un_proc_shares_root(const char *proc);

/* Returns whether a mount of proc hides the processes of other users (proc(5), hidepid). */
bool un_proc_hides(const char *proc);

/* Reads a file like /proc/PID/stat, at the path `file` below the directory `at`. Returns the fields
 * from the third one on (proc_pid_stat(5)), because the second field, the name, may contain any
 * character. Returns NULL if the file can't be read. */
const char *un_proc_stat(int at, const char *file, char *text, size_t size);

/* Reads the AppArmor label of a process, such as "unconfined" or "NAME (enforce)", into `label`.
 * `who` is "self" or a pid. Returns false if the label is absent or unreadable. */
bool un_proc_apparmor(const char *proc, const char *who, char *label, size_t size);

/* Reads the path of this process's control group, such as "/a/b" (cgroups(7), PROC/self/cgroup):
 * the group in the version 1 hierarchy of `controller`, or the group of version 2 if `controller`
 * is "". In a container the path may be relative to the host's root group. Returns false if this
 * process has no such group. */
bool un_proc_cgroup(const char *proc, const char *controller, char *path, size_t size);

/* ---- caps.c: capabilities, by the bare system calls ------------------------------------------ */

/* Buffer for capget(2) and capset(2). Version 3 splits each set of 64 bits into two 32-bit words,
 * the lower one first. */
struct un_cap_sets {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

/* Call capget(2) and capset(2) for this thread. Return 0, or -1 with errno set. Async-signal-safe.
 */
int un_caps_get(struct un_cap_sets *sets);
int un_caps_set(struct un_cap_sets *sets);

/* Reads the effective capabilities of this thread into *caps, bit N for capability N. Returns 0, or
 * -1 with errno set. */
int un_caps_effective(uint64_t *caps);

/* Drops capabilities (bit N for capability N) from the bounding set. Returns 0, or -1 with errno
 * set. Async-signal-safe. */
int un_caps_drop_bounding(uint64_t dropped);

/* Makes every permitted capability inheritable and ambient, so that exec keeps it (Linux 4.3,
 * capabilities(7)). Returns 0, or -1 with errno set. Async-signal-safe. */
int un_caps_keep(void);

/* ---- notice.c: struct un_notices ------------------------------------------------------------- */

/* Adds a notice to `notices`, formatted as by printf(3) and truncated to UN_NOTICE_MAX bytes. */
void un_notice(struct un_notices *notices, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
