/* Functions that read facts about the caller (user, subordinate ids, control group) and about the
 * processes of sandboxes. Internal. */
#ifndef USERNSCTL_FACTS_H
#define USERNSCTL_FACTS_H

#include "base/base.h"

#include <sys/stat.h>

/* ---- ask.c: finding programs, and running those that look up users by NSS -------------------- */

/* Returns whether a path is a regular file that this process may execute, and stores its status in
 * `status`. */
bool un_is_program(const char *path, struct stat *status);
/* Searches the absolute directories of `path`, a list like PATH, for the executable `name`. Stores
 * the path of the executable in `found`, and its status in `status`. Returns false if no directory
 * contains an executable of this name. */
bool un_find_program(const char *path, const char *name, char found[UN_PATH_MAX],
                     struct stat *status);
/* Searches the absolute directories of `path`, a list like PATH, for a regular file `name`,
 * executable or not. Stores the path of the file in `found`. Returns false if no directory contains
 * such a file. */
bool un_find_unusable(const char *path, const char *name, char found[UN_PATH_MAX]);
/* Runs a program that looks up users, such as getent(1) or getsubids(1). `words` contains the name
 * of the program and two arguments, of which each may be NULL. The program is searched for in the
 * directories of `path`. Returns the program's output, truncated to size - 1 bytes, or NULL on
 * failure. */
const char *un_ask(const char *path, const char *const words[], char *output, size_t size);

/* ---- subid.c: parsing files like /etc/subuid ------------------------------------------------- */

/* Returns the path of the file that grants ids of a kind (enum un_kind): the path in `sources`, or
 * the default path if the path in `sources` is NULL. */
const char *un_subid_path(const struct un_sources *sources, int kind);
/* Returns whether `path` is a symbolic link. shadow's programs don't open such a file
 * (lib/commonio.c): newuidmap exits without a message, and usermod can't add a range. */
bool un_subid_is_link(const char *path);

/* Parses a number of at most `most`, which the byte `end` must follow. As shadow does (lib/atoi),
 * skips leading blanks, and accepts octal numbers (prefix 0) and hexadecimal numbers (prefix 0x).
 * Returns a pointer to the byte after `end`, or NULL if `text` is malformed. */
const char *un_subid_number(const char *text, char end, uint64_t most, uint64_t *number);

/* ---- user.c: finding a user's line in the user database -------------------------------------- */

/* Stores in `line` the next line of a uid in the file `passwd`, which un_lines_open() has opened. A
 * long line may be truncated. Returns false if there is no such line. */
bool un_user_next_line(struct un_lines *passwd, uint32_t uid, char line[UN_LINE_MAX]);
/* Stores in `line` the passwd(5) line of a uid, from the file `passwd` or else from the output of
 * getent(1). `path` is the search path for getent(1). A long line may be truncated. Returns false
 * if the uid has no line. */
bool un_user_line(const char *passwd, const char *path, uint32_t uid, char line[UN_LINE_MAX]);

/* ---- control_group.c: finding and reading this process's control group ----------------------- */

/* The directories in which the files of control groups are searched. */
struct un_groups {
    const char *proc;   /* path of the procfs, usually "/proc" */
    const char *mounts; /* mount point of version 2, and parent of the mount points of version 1;
                           usually "/sys/fs/cgroup" */
    /* parent of the users' runtime directories (XDG_RUNTIME_DIR); usually "/run/user" */
    const char *users;
    /* whether the paths above name copies in ordinary directories, for a test; neither the
     * filesystem type nor the processes of the control group are then checked */
    bool is_copy;
};

extern const struct un_groups un_groups_here;

/* Opens the mount point of a cgroup filesystem. Stores in `group` the path of this process's
 * control group, relative to the mount point but with a leading slash. `controller` selects a
 * version 1 hierarchy; "" selects version 2. Returns a descriptor of the mount point, or -1. */
int un_group_find(const struct un_groups *groups, const char *controller, char group[UN_PATH_MAX]);

/* Opens files[0] in the version 1 hierarchy of `controller`, or files[1] in version 2: the file of
 * this process's control group, or of the group's closest ancestor that has such a file. Stores the
 * version in *version. Returns a descriptor, or -1. */
int un_group_open(const struct un_groups *groups, const char *controller,
                  const char *const files[2], int *version);

/* Reads the number at the beginning of the file that un_group_open() opens for the same arguments.
 * Returns false if there is no number: pids.max, for example, contains "max" if there is no
 * limit. */
bool un_group_number(const struct un_groups *groups, const char *controller,
                     const char *const files[2], uint64_t *number);

/* Reads the lowest limits of this process's control group and of its ancestors. In a container,
 * only the ancestors inside its cgroup namespace are read. */
void un_group_limits(const struct un_groups *groups, struct un_group_limits *limits);
/* If the host has less memory than the memory limit allows, lowers the limit to the memory size of
 * the host. If the CPU limit exceeds the number of processors in the affinity mask of this process
 * (sched_getaffinity(2)), lowers the CPU limit to that number. */
void un_limit_to_machine(struct un_group_limits *limits);

/* ---- group_place.c: the parent group of sandboxes' control groups ---------------------------- */

/* Opens the parent group for sandboxes: a directory in which this process may create control groups
 * that limit the resource `part`. *version becomes the version of cgroups, 1 or 2. Returns a
 * descriptor, which un_group_release() closes, or -1 with errno set. */
int un_group_place(const struct un_groups *groups, enum un_group_part part, int *version);
/* Closes a parent group for sandboxes that un_group_place() has opened. Also removes the group if
 * it is empty and un_group_place() may have created it. */
void un_group_release(int place, int version);

/* Prepares a parent group for sandboxes (un_group_place()) of cgroups version 2 for child groups
 * with limits. A group whose children have controllers can't contain processes, so the processes of
 * the parent group are moved to a child group. Does nothing for version 1. Returns 0, or -1 with
 * errno set. */
int un_group_prepare(int place, enum un_group_part part, int version);

/* Calls `visit` for each process in a cgroup, until `visit` returns true. Returns whether `visit`
 * has returned true. Skips processes that are not visible in this PID namespace: cgroup.procs
 * contains 0 instead of their pids. */
bool un_group_any_process(int group, bool (*visit)(pid_t pid, void *arg), void *arg);
bool un_group_has_process(int group, pid_t pid);

/* Writes a text to a file of a control group in a single write(2). Returns 0, or -1 with errno
 * set. */
int un_group_write(int group, const char *file, const char *text);

/* Prefix of the names of sandboxes' cgroups. Each cgroup is locked (flock(2)) as long as its
 * sandbox runs. */
#define UN_GROUP_PREFIX "usernsctl-sandbox-"

/* Removes the control groups that sandboxes have left behind in the parent group `place`, that is,
 * those with the prefix UN_GROUP_PREFIX that are not locked. */
void un_group_sweep(int place);

/* ---- usage.c: resource usage of a sandbox's processes ---------------------------------------- */

/* Calls `visit` for each child of a process, until `visit` returns true. Returns whether `visit`
 * has returned true. Sets *failed if the list of children can't be read. */
bool un_any_child(pid_t pid, bool (*visit)(pid_t child, void *arg), void *arg, bool *failed);

/* Maximum number of memfds that contain the memory of one sandbox. A sandbox usually has one, but
 * after a restore from a checkpoint several. */
#define UN_MEMORY_FILES 8

struct un_memory_files {
    int fd[UN_MEMORY_FILES];
    int number[UN_MEMORY_FILES]; /* numbers of the memfds' descriptors in the process that has
                                    opened them */
    size_t count;
};

/* Opens the memfds that contain the memory of the programs in a sandbox, through the descriptors of
 * the process `pid`. Only gVisor's kernel has such memfds. Returns whether the process has any. */
bool un_memory_files_open(pid_t pid, struct un_memory_files *files);
/* Returns whether the process `pid` still has all of `files` open, and `files` is not empty. When
 * gVisor's kernel restores a checkpoint, it closes its memfds and creates new ones. */
bool un_memory_files_are_open(pid_t pid, const struct un_memory_files *files);
void un_memory_files_close(struct un_memory_files *files);
/* Returns the number of bytes that the memfds in `files` occupy. */
uint64_t un_memory_files_size(const struct un_memory_files *files);
/* Returns the size in bytes of a process's anonymous memory and page tables, or 0 if the process
 * has exited. */
uint64_t un_private_memory(pid_t pid);
/* Returns the CPU time of a process in microseconds, or -1 if the process has been reaped. */
int64_t un_processor_time(pid_t pid);
/* Returns the number of threads of a process, or 0 if the process has been reaped. */
uint64_t un_task_count(pid_t pid);

/* Opens /proc/loadavg for un_last_pid(). Returns a descriptor, or -1 if the file is missing, or is
 * not on procfs but emulated, for example by lxcfs. */
int un_open_last_pid(void);
/* Returns the id that the kernel has last given to a process or thread in this PID namespace
 * (proc_loadavg(5)), or -1 if it can't be read. */
int64_t un_last_pid(int fd);

/* Size in bytes of a buffer for un_mib_text(). */
#define UN_MIB_ROOM 32
/* Writes a number of bytes to `text` in MiB, rounded down to one decimal, as in "24.0 MiB". Returns
 * `text`. */
const char *un_mib_text(uint64_t bytes, char text[UN_MIB_ROOM]);

#endif
