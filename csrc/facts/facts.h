/* Facts about the caller: the caller's user, granted ids, control group and sandboxes. Internal. */
#ifndef USERNSCTL_FACTS_H
#define USERNSCTL_FACTS_H

#include "base/base.h"

#include <sys/stat.h>

/* ---- ask.c: finding and running system programs ---------------------------------------------- */

/* Returns whether a path is an executable regular file, and stores its status in `status`. */
bool un_is_program(const char *path, struct stat *status);
/* Finds the executable `name` in the absolute directories of the search path `path`. Returns false
 * if no directory has the executable. */
bool un_find_program(const char *path, const char *name, char found[UN_PATH_MAX],
                     struct stat *status);
/* Finds the regular file `name`, executable or not, in the absolute directories of the search path
 * `path`. Returns false if no directory has the file. */
bool un_find_unusable(const char *path, const char *name, char found[UN_PATH_MAX]);
/* Searches `path` for a program, and runs the program with up to two arguments, for lookups that
 * only NSS can answer. `words` holds the program and its arguments; NULL must follow if there are
 * fewer than two arguments. Returns the output, truncated to size - 1 bytes, or NULL on failure. */
const char *un_ask(const char *path, const char *const words[], char *output, size_t size);

/* ---- subid.c: parsing files like /etc/subuid ------------------------------------------------- */

/* Returns the path of the file that grants ids of a kind (enum un_kind), which is the path in
 * `sources`, or the default path if the path in `sources` is NULL. */
const char *un_subid_path(const struct un_sources *sources, int kind);

/* Parses a number of at most `most`, followed by the byte `end`. Like shadow (lib/atoi), allows
 * leading blanks, and accepts octal numbers with the prefix 0 and hexadecimal numbers with the
 * prefix 0x. Returns a pointer to the byte after `end`, or NULL if the text is malformed. */
const char *un_subid_number(const char *text, char end, uint64_t most, uint64_t *number);

/* ---- user.c: a user's line in the user database ---------------------------------------------- */

/* Finds the passwd(5) line of a uid, in the file `passwd`, or else in the output of getent(1).
 * Searches the search path `path` for getent. The end of the line may be truncated. Returns false
 * if the uid has no line. */
bool un_user_line(const char *passwd, const char *path, uint32_t uid, char line[UN_LINE_MAX]);

/* ---- control_group.c: the control group of this process -------------------------------------- */

/* Paths of the files that describe control groups. */
struct un_groups {
    const char *proc;   /* path of the proc file system, "/proc" */
    const char *mounts; /* mount point of version 2 of control groups, below which version 1 is
                           mounted; "/sys/fs/cgroup" */
    const char *users;  /* directory that contains the transient unit files of users, "/run/user" */
    bool is_copy;       /* whether the files are copies on another file system, as in tests */
};

extern const struct un_groups un_groups_here;

/* Opens the mount point of the control groups, and stores the path of this process's group below
 * it, which begins with a slash, in `group`. Uses the version 1 hierarchy of `controller`, or
 * version 2 if `controller` is "". Returns a descriptor of the mount point, or -1. */
int un_group_find(const struct un_groups *groups, const char *controller, char group[UN_PATH_MAX]);

/* Opens a file of this process's control group, or of the closest parent that has the file. Opens
 * files[0] in the version 1 hierarchy of `controller`, or, if that hierarchy has no such file,
 * files[1] in version 2. Returns a descriptor, or -1. */
int un_group_open(const struct un_groups *groups, const char *controller,
                  const char *const files[2], int *version);

/* Reads the number at the beginning of a file that un_group_open() would open. Returns false if the
 * file does not begin with a number, as a pids.max without a limit does not. */
bool un_group_number(const struct un_groups *groups, const char *controller,
                     const char *const files[2], uint64_t *number);

/* Reads the lowest limits of this process's control group and its parents. A container sees only
 * the parents in its cgroup namespace. */
void un_group_limits(const struct un_groups *groups, struct un_group_limits *limits);
/* Lowers the limits that are higher than the memory of this machine, or than the number of
 * processors on which this process may run, to these numbers. */
void un_limit_to_machine(struct un_group_limits *limits);

/* ---- group_place.c: where this process may make control groups ------------------------------- */

/* Opens the place for control groups of sandboxes: a directory in which this process may create
 * groups that limit the resource `part`. *version becomes 1 or 2. Returns a descriptor for
 * un_group_release(), or -1 with errno set. */
int un_group_place(const struct un_groups *groups, enum un_group_part part, int *version);
/* Closes a place that un_group_place() has opened. If un_group_place() has created a group for the
 * place, and the group is empty now, removes the group. */
void un_group_release(int place, int version);

/* Prepares a place of version 2 for groups with limits. Moves all processes of the group to a child
 * group, because a group whose children have controllers can't have processes. Does nothing for
 * version 1. Returns 0, or -1 with errno set. */
int un_group_prepare(int place, enum un_group_part part, int version);

/* Calls `visit` for each process of a control group, until `visit` returns true. Returns whether
 * `visit` has returned true. Processes outside of this PID namespace have the pid 0 in the group's
 * list, and are skipped. */
bool un_group_any_process(int group, bool (*visit)(pid_t pid, void *arg), void *arg);
bool un_group_has_process(int group, pid_t pid);

/* Writes a text to a file of a control group by one write(2). Returns 0, or -1 with errno set. */
int un_group_write(int group, const char *file, const char *text);

/* Prefix of the names of sandboxes' control groups. The groups are locked (flock(2)) while their
 * sandboxes run. */
#define UN_GROUP_PREFIX "usernsctl-sandbox-"

/* Removes the leftover control groups of ended sandboxes from a place. */
void un_group_sweep(int place);

/* ---- usage.c: what the processes of a sandbox use -------------------------------------------- */

/* Calls `visit` for each child of a process, until `visit` returns true. Returns whether `visit`
 * has returned true. *failed becomes true if the children can't be read. */
bool un_any_child(pid_t pid, bool (*visit)(pid_t child, void *arg), void *arg, bool *failed);

/* Maximum number of memory files of a sandbox. A sandbox usually has one; a restored one may have
 * several. */
#define UN_MEMORY_FILES 8

struct un_memory_files {
    int fd[UN_MEMORY_FILES];
    size_t count;
};

/* Opens the files with the memory of the programs in a sandbox, by the descriptors of the process
 * `pid`. Only gVisor's kernel has such files open. Returns whether the process has such a file
 * open. */
bool un_memory_files_open(pid_t pid, struct un_memory_files *files);
/* Returns the number of bytes that the memory files occupy. */
uint64_t un_memory_files_size(const struct un_memory_files *files);
/* Returns the bytes of a process's anonymous memory and page tables, or 0 if the process has
 * exited. */
uint64_t un_private_memory(pid_t pid);
/* Returns the processor time of a process in microseconds, or -1 if it has been reaped. */
int64_t un_processor_time(pid_t pid);
/* Returns the number of threads of a process, or 0 if it has been reaped. */
uint64_t un_task_count(pid_t pid);

/* Opens the file from which un_last_pid() reads. Returns a descriptor, or -1 if the file is missing
 * or does not come from the kernel. */
int un_open_last_pid(void);
/* Returns the last id that the kernel has given to a process or thread in the PID namespace of this
 * process (proc_loadavg(5)), or -1 if it can't be read. */
int64_t un_last_pid(int fd);

/* Size of a buffer for a number of MiB as text. */
#define UN_MIB_ROOM 32
/* Writes a number of bytes to `text` in MiB, rounded down to tenths, such as "24.0 MiB". Returns
 * `text`. */
const char *un_mib_text(uint64_t bytes, char text[UN_MIB_ROOM]);

#endif
