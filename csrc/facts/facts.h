/* Identity of the caller, and the ids granted to it. Internal. */
#ifndef USERNSCTL_FACTS_H
#define USERNSCTL_FACTS_H

#include "base/base.h"

#include <sys/stat.h>

/* ---- ask.c: finding and running system programs ---------------------------------------------- */

/* Returns whether a path is an executable regular file, and fills in its status. */
bool un_is_program(const char *path, struct stat *status);
/* Finds an executable in the absolute directories of `path`. Returns false if there is none. */
bool un_find_program(const char *path, const char *name, char found[UN_PATH_MAX],
                     struct stat *status);
/* Finds a regular file in the absolute directories of `path`, executable or not. Returns false if
 * there is none. */
bool un_find_unusable(const char *path, const char *name, char found[UN_PATH_MAX]);
/* Runs a program found in `path` with up to two arguments, for lookups that only NSS can answer.
 * `words` holds the program and its arguments; NULL must follow if there are fewer than two.
 * Returns the output, truncated to size - 1 bytes, or NULL on failure. */
const char *un_ask(const char *path, const char *const words[], char *output, size_t size);

/* ---- subid.c: parsing files like /etc/subuid ------------------------------------------------- */

/* Returns the file that grants ids of a kind (enum un_kind): that of `sources`, or the default. */
const char *un_subid_path(const struct un_sources *sources, int kind);

/* Parses a number of at most `most`, followed by the byte `end`, as shadow does (lib/atoi): leading
 * blanks are allowed, and the prefixes 0 and 0x mean octal and hexadecimal. Returns a pointer past
 * `end`, or NULL. */
const char *un_subid_number(const char *text, char end, uint64_t most, uint64_t *number);

/* ---- user.c: a user's line in the user database ---------------------------------------------- */

/* Finds the passwd(5) line of a uid in the file `passwd`, otherwise in the output of getent(1), for
 * which `path` is searched. The end of the line may be truncated. Returns false if there is none.
 */
bool un_user_line(const char *passwd, const char *path, uint32_t uid, char line[UN_LINE_MAX]);

/* ---- control_group.c: the control group of this process -------------------------------------- */

/* The files that describe control groups. */
struct un_groups {
    const char *proc;   /* "/proc" */
    const char *mounts; /* the mount point of version 2, with the mount points of version 1 in it */
    const char *users;  /* "/run/user", which has the transient unit files of users' managers */
    bool is_copy;       /* whether the files are copies, on another filesystem */
};

extern const struct un_groups un_groups_here;

/* Opens the mount point of a controller of version 1, or of version 2 for "", and finds the path of
 * this process's group there, which begins with a slash. Returns a descriptor, or -1. */
int un_group_find(const struct un_groups *groups, const char *controller, char group[UN_PATH_MAX]);

/* Opens a file of this process's group, or of the closest parent that has the file: files[0] of
 * version 1 if that has the controller, otherwise files[1] of version 2. Returns a descriptor, or
 * -1. */
int un_group_open(const struct un_groups *groups, const char *controller,
                  const char *const files[2], int *version);

/* Reads the number at the beginning of a file that un_group_open() opens. Returns false if there is
 * none, as in a pids.max without a limit. */
bool un_group_number(const struct un_groups *groups, const char *controller,
                     const char *const files[2], uint64_t *number);

/* Reads the lowest limits of this process's group and its parents. A container sees only the
 * parents in its control group namespace. */
void un_group_limits(const struct un_groups *groups, struct un_group_limits *limits);
/* Lowers limits to the memory of this machine, and to the processors of this process. */
void un_limit_to_machine(struct un_group_limits *limits);

/* ---- group_place.c: where this process may make control groups ------------------------------- */

/* Opens the directory in which this process may make groups that limit a part. *version is 1 or 2.
 * Returns a descriptor for un_group_release(), or -1 with errno. */
int un_group_place(const struct un_groups *groups, enum un_group_part part, int *version);
/* Closes a place, and removes the group that un_group_place() made there if the group is empty. */
void un_group_release(int place, int version);

/* Makes a place of version 2 ready for groups with limits: a group whose children have controllers
 * can't have processes, so all of its processes move to a child. Does nothing for version 1.
 * Returns 0, or -1 with errno. */
int un_group_prepare(int place, enum un_group_part part, int version);

/* Calls `visit` for each process of a group, until `visit` returns true. Returns whether `visit`
 * has returned true. A process outside of this PID namespace has the pid 0 here, and is skipped. */
bool un_group_any_process(int group, bool (*visit)(pid_t pid, void *arg), void *arg);
bool un_group_has_process(int group, pid_t pid);

/* Writes a text to a file of a group by one write(2). Returns 0, or -1 with errno. */
int un_group_write(int group, const char *file, const char *text);

/* Groups of sandboxes have this prefix, and are locked (flock(2)) while their sandbox runs. */
#define UN_GROUP_PREFIX "usernsctl-sandbox-"

/* Removes the groups in a place whose sandbox has ended without removing them. */
void un_group_sweep(int place);

/* ---- usage.c: what the processes of a sandbox use -------------------------------------------- */

/* Calls `visit` for each child of a process, until `visit` returns true. Returns whether `visit`
 * has returned true. *failed is set if the children can't be read. */
bool un_any_child(pid_t pid, bool (*visit)(pid_t child, void *arg), void *arg, bool *failed);

/* A sandbox has one file for its memory; restored ones may have several. */
#define UN_MEMORY_FILES 8

struct un_memory_files {
    int fd[UN_MEMORY_FILES];
    size_t count;
};

/* Opens the files that hold the memory of the programs in a sandbox, from the descriptors of the
 * process `pid`. Only gVisor's kernel has such descriptors. Returns whether the process has any. */
bool un_memory_files_open(pid_t pid, struct un_memory_files *files);
/* Returns the number of bytes that the memory files occupy. */
uint64_t un_memory_files_size(const struct un_memory_files *files);
/* Returns the bytes of a process's anonymous memory and page tables, or 0 if it has ended. */
uint64_t un_private_memory(pid_t pid);
/* Returns the processor time of a process in microseconds, or -1 if it has been reaped. */
int64_t un_processor_time(pid_t pid);
/* Returns the number of threads of a process, or 0 if it has been reaped. */
uint64_t un_task_count(pid_t pid);

/* Opens the file that un_last_pid() reads. Returns -1 if the file is missing, or does not come from
 * the kernel. */
int un_open_last_pid(void);
/* Returns the last id that the kernel has given to a process or thread in the PID namespace of this
 * process (proc_loadavg(5)), or -1. */
int64_t un_last_pid(int fd);

/* Room for a number of MiB. */
#define UN_MIB_ROOM 32
/* Writes a number of bytes as MiB, rounded down to tenths, such as "24.0 MiB". Returns `text`. */
const char *un_mib_text(uint64_t bytes, char text[UN_MIB_ROOM]);

#endif
