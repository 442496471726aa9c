/* Functions for errors, numbers, text, capabilities, and files in /proc and /etc. Internal.
 * Includes the libc headers that nearly every source needs. */
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

/* Fills in `err` and returns -1. `format` and the following arguments, as for printf(3), become the
 * detail. The remedy stays empty. Not async-signal-safe. */
int un_fail(struct un_error *err, enum un_step step, int errnum, const char *cause,
            const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Fills in `err` with errno and `detail`, but with no cause, and returns -1. Async-signal-safe. */
int un_fail_errno(struct un_error *err, enum un_step step, const char *detail);

/* Returns the cause of an errno of a call that creates or writes a file, or NULL if it is unknown.
 * Calls that create namespaces fail with ENOSPC for other causes. */
const char *un_cause_of_file_error(int errnum);

/* Returns glibc's text for an errno, also in programs that are linked with musl: musl's strerror(3)
 * differs for some errors, and users search for the well-known text. */
const char *un_errno_text(int errnum);

/* ---- text: comparing strings without libc ---------------------------------------------------- */

static inline bool un_begins(const char *text, const char *start)
{
    while (*start && *text == *start) {
        text++;
        start++;
    }
    return !*start;
}

/* ---- number.c: parsing and formatting decimal numbers, without libc -------------------------- */

/* Parses the decimal digits at the beginning of `text`. Returns a pointer to the first byte after
 * the digits, or NULL if there are no digits or the number exceeds `most`. Async-signal-safe. */
const char *un_number_read(const char *text, uint64_t most, uint64_t *number);

/* Writes a number in decimal (at most 20 digits) to `to`, terminated by NUL, and returns a pointer
 * to the NUL. Async-signal-safe. */
char *un_number_write(char *to, uint64_t number);

/* ---- utf8.c: decoding UTF-8 strictly --------------------------------------------------------- */

/* Decodes the non-ASCII character at the beginning of `text` into *code. Returns the length of the
 * character in bytes, or 0 for invalid UTF-8, such as a surrogate, a value above U+10FFFF, or an
 * overlong encoding (RFC 3629). */
size_t un_utf8_read(const char *text, uint32_t *code);

/* The replacement character U+FFFD in UTF-8, which replaces each byte of invalid UTF-8 in untrusted
 * text. */
#define UN_REPLACEMENT "\xef\xbf\xbd"

/* ---- printable.c: making untrusted text safe for a terminal ---------------------------------- */

/* Rewrites `text` in place, so that it is one line without control sequences. Each white space
 * character becomes a space. Any other control character, any invisible or bidirectional formatting
 * character, and any byte that is not UTF-8 becomes a question mark. usernsctl/_text.py has the
 * same rule for Python. */
void un_make_printable(char *text);

/* Maximum number of characters in a quotation of untrusted text. */
#define UN_QUOTED_MAX 300
/* Size of a buffer for a quotation: at most ten bytes per character, three dots after truncated
 * text, two quotation marks and a NUL. */
#define UN_QUOTED_ROOM (UN_QUOTED_MAX * 10 + 6)

/* Writes untrusted text as one line in quotation marks to `quoted`. Escapes quotation marks,
 * control characters, and other characters that a terminal would interpret. quoted() in
 * usernsctl/explain/logs.py has the same rule. */
void un_quote(const char *text, char quoted[UN_QUOTED_ROOM]);

/* ---- cleanup: releasing resources at the end of a block, with errno unchanged ---------------- */

/* Attributes that release the resource of a local variable when the variable goes out of scope, as
 * in `un_auto_close int fd = ...;`. A function in which a parent and its child share memory
 * (vfork(2)) must not use them, because both processes would release the resource. */
#define un_auto_close __attribute__((cleanup(un_release_fd)))
#define un_auto_fclose __attribute__((cleanup(un_release_file)))
#define un_auto_free __attribute__((cleanup(un_release_memory)))

/* Closes a descriptor without changing errno. Does nothing if the descriptor is -1. */
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

/* Frees the memory to which the pointer variable at `memory` points (un_auto_free). */
static inline void un_release_memory(const void *memory)
{
    int errnum = errno;
    free(*(void *const *)memory);
    errno = errnum;
}

/* ---- files.c: joining paths, and reading and writing files ----------------------------------- */

/* Writes the path DIRECTORY/NAME to `path`. Returns 0, or -1 with errno ENAMETOOLONG if the path is
 * too long. */
int un_path_join(char path[UN_PATH_MAX], const char *directory, const char *name);
/* Returns whether `path` is `top` or lies below it. Compares only the text of the paths. */
bool un_is_below(const char *path, const char *top);

#define UN_FD_PATH_MAX 32
/* Writes the path /proc/self/fd/FD of an open file to `path`, and returns `path`. */
const char *un_fd_path(int fd, char path[UN_FD_PATH_MAX]);

/* Opens the file of a descriptor again, with the flags `flags`, for example to read a file that was
 * opened with O_PATH. Returns a new descriptor, or -1 with errno set. */
int un_reopen(int fd, int flags);

struct stat;
/* Opens a regular file for reading, and stores its status in `status`. Returns a descriptor, or -1
 * if the file is missing or unreadable, or is not a regular file. Does not follow a symbolic
 * link. */
int un_open_regular(const char *path, struct stat *status);

/* Reads a file until its end or until the buffer is full. Returns the number of bytes read, or -1
 * with errno set. */
ssize_t un_read_all(int fd, char *bytes, size_t size);

/* Reads the file `name` in `directory` as un_read_all() does, and terminates `text` by NUL. */
ssize_t un_read_file(int directory, const char *name, char *text, size_t size);

/* Writes all bytes, by several calls of write(2) if necessary. Returns 0, or -1 with errno set. */
int un_write_all(int fd, const char *from, size_t size);

/* Returns the number in the first line of the file `path` that begins with `key`, such as
 * "MemTotal:". Returns -1 with errno set on failure: EBADMSG if no line begins with `key`. */
int64_t un_field_number(const char *path, const char *key);
/* Returns the number in the first line of /proc/self/fdinfo/FD that begins with `key`, or -1 with
 * errno set. */
int64_t un_fd_info(int fd, const char *key);

/* ---- clock.c: reading the clock for deadlines ------------------------------------------------ */

/* Returns the time of CLOCK_MONOTONIC in milliseconds. */
int64_t un_now_ms(void);

/* ---- path: searching PATH, without libc ------------------------------------------------------ */

/* The search path of execvp(3) if PATH is not set, but without the current directory. */
#define UN_DEFAULT_PATH "/bin:/usr/bin"

/* The search path for system programs that usernsctl itself runs, such as getent(1). */
#define UN_SYSTEM_PATH "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

static inline bool un_has_slash(const char *name)
{
    while (*name && *name != '/')
        name++;
    return *name == '/';
}

/*
 * Removes the first directory from *at, a colon-separated list of directories such as PATH, and
 * writes the path of `name` in that directory to `path`. An empty element of the list means the
 * current directory. Skips directories whose paths with `name` exceed PATH_MAX. Returns false when
 * no directory is left.
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
    int errnum;       /* errno of the failed read(2); 0 if no read(2) has failed */
    uint64_t size;    /* size of the file when it was opened, in bytes */
    uint64_t read;    /* number of bytes that were read from the file so far */
    size_t at;        /* offset in `block` of the next line */
    size_t length;    /* number of bytes in `block` */
    char block[8192]; /* the block that was read last; most files in /etc fit into one block */
};

/* Opens a regular file to read it line by line. Returns false with errno set on failure. Rejects
 * any other type of file (EISDIR or EINVAL), because the /etc of a hostile image may contain a FIFO
 * without a writer, or a device without end of file. After a failure, the other un_lines_...()
 * functions treat the file as empty. */
bool un_lines_open(struct un_lines *lines, const char *path);

/* Returns whether un_lines_open() failed with `errnum` because the path does not name a regular
 * file. */
bool un_lines_is_no_file(int errnum);

/* Reads the next line, without its newline. Returns false at the end of the file. Truncates a line
 * that does not fit in `line`. *cut becomes true if the line fills `line`, and so may be
 * truncated. */
bool un_lines_next(struct un_lines *lines, char line[UN_LINE_MAX], bool *cut);

/* Rewinds to the first line of the file, which un_lines_next() then reads again. */
void un_lines_rewind(struct un_lines *lines);

/* Closes the file of `lines` without changing errno. Does nothing if un_lines_open() has failed. */
void un_lines_close(const struct un_lines *lines);
#define un_auto_lines __attribute__((cleanup(un_lines_close)))

/* ---- accounts.c: looking up users and groups in /etc/passwd and /etc/group ------------------- */

#define UN_ACCOUNT_PASSWD "/etc/passwd"
#define UN_ACCOUNT_GROUP "/etc/group"
/* Maximum length of a user or group name in bytes, without the NUL. The system's own limit is one
 * byte less: LOGIN_NAME_MAX is 256 with the NUL (limits.h(0p)). */
#define UN_ACCOUNT_NAME_MAX 256

/* A user and optionally a group as given by the caller, each as an id or as a name. */
struct un_account_name {
    char user[UN_ACCOUNT_NAME_MAX + 1];
    char group[UN_ACCOUNT_NAME_MAX + 1];
    bool has_group;
};

/* Parses USER[:GROUP]. Returns false if USER or GROUP is neither an id nor a printable name.
 * parse_user() in usernsctl/gvisor/checks.py has the same rule for ids. For names, that function is
 * stricter: it also rejects characters such as U+00A0, for which str.isprintable() is false. */
bool un_account_parse(const char *text, struct un_account_name *name);
/* Returns whether `name`, a member of struct un_account_name, is an id and not a name. */
bool un_account_is_id(const char *name);
/* Fills in `err` for a file of a sandbox, such as /etc/passwd, that can't be used, and returns -1.
 * The message consists of `path` and then `why`. */
int un_account_fail_file(const char *path, int errnum, const char *why, struct un_error *err);

/* ---- mounts.c: reading the mount table ------------------------------------------------------- */

/* An entry of the mount table (proc_pid_mountinfo(5)): the directory `root` of a filesystem is
 * mounted on `point`. */
struct un_mounted {
    int id;
    int parent;          /* mount id of the parent mount */
    const char *device;  /* device number of the filesystem, as MAJOR:MINOR */
    const char *root;    /* root of the mount: the directory of the filesystem that is mounted */
    const char *point;   /* mount point, relative to the root directory of this process */
    const char *type;    /* type of the filesystem, such as "tmpfs" */
    const char *options; /* superblock options of the filesystem */
};

/* A mount table: the mounts in a mount namespace that a process can see. */
struct un_mounts {
    char *text;
    struct un_mounted *mount;
    size_t count;
};

/* Reads the mount table from a file such as /proc/self/mountinfo. The caller must free *mounts
 * (un_mounts_free()), even after a failure. Returns 0, or -1 with errno set. */
int un_mounts_read(struct un_mounts *mounts, const char *path);
void un_mounts_free(const struct un_mounts *mounts);
#define un_auto_mounts __attribute__((cleanup(un_mounts_free)))
/* Returns the mount with the mount id `id`, or NULL if the table has no such mount. */
const struct un_mounted *un_mounts_by_id(const struct un_mounts *mounts, int id);
/* Stores in *found the mount to which an open file belongs, or NULL if that mount belongs to
 * another mount namespace. Returns 0, or -1 with errno set. */
int un_mounts_find(const struct un_mounts *mounts, int fd, const struct un_mounted **found);

/* ---- procfile.c: reading single values from files in /proc ----------------------------------- */

/* Returns the number in the file `file` below `proc`, such as "sys/user/max_user_namespaces", or -1
 * if the file can't be read. */
int64_t un_proc_number(const char *proc, const char *file);
/* Returns the number in the line of PROC/self/status that begins with `key`, such as "Seccomp:", or
 * -1 on failure. */
int64_t un_proc_status(const char *proc, const char *key);
/* Returns whether PROC/self/mountinfo lists a mount on `point` or, if `below` is set, a mount below
 * `point` that hides files. */
bool un_proc_has_mount(const char *proc, const char *point, bool below);
/* Returns whether this process and PID 1 have the same root directory, that is, the same mount on
 * "/". A chroot to a mount point is detected, too, because the mount points in mountinfo are
 * relative to the root directory of the process. */
bool un_proc_shares_root(const char *proc);

/* Returns whether a visible procfs mount hides the processes of other users (proc(5), hidepid). */
bool un_proc_hides(const char *proc);

/* Reads a file such as /proc/PID/stat from the path `file`, relative to the directory `at`. Returns
 * a pointer to the third field (proc_pid_stat(5)), so that the caller need not parse the second
 * one: the name of the process, which may contain any character. Returns NULL if the file can't be
 * read. */
const char *un_proc_stat(int at, const char *file, char *text, size_t size);

/* Writes the AppArmor label of a process, such as "unconfined" or "NAME (enforce)", to `label`.
 * `who` is a pid or "self". Returns false if the process has no label or the label can't be
 * read. */
bool un_proc_apparmor(const char *proc, const char *who, char *label, size_t size);

/* Reads the path of this process's control group, such as "/a/b", from PROC/self/cgroup into `path`
 * (cgroups(7)). `controller` selects a version 1 hierarchy; "" selects version 2. In a container,
 * the path may be relative to the root group of the host. Returns false if the process has no such
 * control group. */
bool un_proc_cgroup(const char *proc, const char *controller, char *path, size_t size);

/* ---- caps.c: getting and setting the capabilities of this thread, without libcap ------------- */

/* Buffer for capget(2) and capset(2). In version 3 of the interface, each 64-bit set is split into
 * two words of 32 bits, the lower one first. */
struct un_cap_sets {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

/* un_caps_get() calls capget(2), and un_caps_set() capset(2), for this thread. Each returns 0, or
 * -1 with errno set. Async-signal-safe. */
int un_caps_get(struct un_cap_sets *sets);
int un_caps_set(struct un_cap_sets *sets);

/* Stores the effective capabilities of this thread in *caps, with bit N for capability N. Returns
 * 0, or -1 with errno set. */
int un_caps_effective(uint64_t *caps);

/* Drops the capabilities `dropped` (bit N for capability N) from the bounding set. Returns 0, or -1
 * with errno set. Async-signal-safe. */
int un_caps_drop_bounding(uint64_t dropped);

/* Makes all permitted capabilities inheritable and ambient, so that they survive an execve(2)
 * (ambient sets exist since Linux 4.3, capabilities(7)). Returns 0, or -1 with errno set.
 * Async-signal-safe. */
int un_caps_keep(void);

/* ---- notice.c: adding notices to struct un_notices ------------------------------------------- */

/* Formats a notice as printf(3) does, truncates it to UN_NOTICE_MAX bytes, and adds it to
 * `notices`. */
void un_notice(struct un_notices *notices, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
