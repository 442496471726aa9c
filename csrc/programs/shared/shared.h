/* Functions that several programs share. Internal to usernsctl. */
#ifndef USERNSCTL_PROGRAMS_SHARED_SHARED_H
#define USERNSCTL_PROGRAMS_SHARED_SHARED_H

#include "facts/facts.h"
#include "include/usernsctl.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* A plan for id maps, and the data about the caller and the host on which the plan is based. Does
 * not fit a small stack. */
struct decision {
    struct un_facts facts;
    struct un_plan plan;
};

/* ---- report.c: messages on standard error ---------------------------------------------------- */

/* A message for standard error. A member that is NULL is left out of the message. */
struct report {
    const char *program;
    const char *level; /* "warning", "notice", or NULL for "error" */
    const char *step;
    const char *message; /* what has failed and why, in one line */
    /* cause id; printed only if the catalogue of causes (explain/) contains the id, or `why` is
     * set */
    const char *cause;
    const char *why;     /* explanation that replaces the catalogue's explanation of the cause */
    const char *details; /* additional lines to print after the message */
    const char *remedy;  /* lines that replace the catalogue's remedy for the cause */
    const char *more;    /* where the user finds more information */
};

/* Makes this process print all messages as JSON, one object per line. */
void report_in_json(void);

/* Prints a message to standard error. All strings in `report` must be printable. */
void report_message(struct report report);

/* Prints an error to standard error, with the failed step, the reason, and the remedy. */
void report_error(const char *program, const struct un_error *err);

/* Prints an error as report_error() does, but with the remedy `remedy` unless it is NULL. */
void report_error_with(const char *program, const struct un_error *err, const char *remedy);

/* ---- error_fields.c: errors that a program sends to its parent ------------------------------- */

#define ERROR_FIELDS 6
#define ERROR_FIELDS_MAX (2 * UN_DETAIL_MAX + 256)

/* Determines the cause of an error (un_diagnose()), and writes the fields step, errno, cause,
 * detail, path and remedy to `fd`, each terminated by NUL. Returns -1. */
int error_send(int fd, struct un_error *err);
/* Parses fields that error_send() has written, and stores the error in `err`. Returns false if
 * `text` is malformed. */
bool error_parse(const char *text, size_t size, struct un_error *err);

/* ---- early_signals.c: signals that arrive before the watcher can forward them ---------------- */

/* Blocks all signals that terminate a process. The kernel discards a signal that PID 1 of a
 * container neither handles nor blocks, but keeps a blocked signal pending. So an early `docker
 * stop` is not lost: usernsctl-watch forwards the signal later. Returns 0, or -1 with errno set. */
int keep_early_signals(void);
/* Opens a signalfd for the signals that keep_early_signals() blocks. Returns a descriptor, or -1
 * with errno set. */
int open_kept_signals(void);

/* ---- stay_outside.c: keeping PID 1 of a container in the container's user namespace ---------- */

/*
 * If this process is PID 1 of a container that has its own user namespace, forks, so that only the
 * child enters another user namespace. Otherwise the container engine could no longer start
 * programs in the container, such as health checks and probes, because its setns(2) to the
 * namespaces of PID 1 would fail.
 *
 * Returns false in the process that must continue, which is the child if there is one. In PID 1,
 * waits for the child, stores its exit status in *status, and returns true. If the fork fails,
 * returns true with *status set to -1 and errno set.
 */
bool stay_outside(int *status);

/* ---- limits.c: parsing the limits of a sandbox ----------------------------------------------- */

/* Limits of one sandbox. A member is 0 if there is no limit. */
struct un_limits {
    uint64_t memory;     /* memory limit in bytes */
    uint64_t pids;       /* maximum number of processes and threads */
    uint64_t processors; /* number of processors that programs see (sandbox_show_limits()) */
    uint64_t disk;       /* size in bytes of the tmpfs for writes (sandbox_show_limits()) */
    uint64_t timeout;    /* maximum run time in ms */
    uint64_t idle;       /* idle timeout: time in ms without a command */
    uint64_t quota;      /* CPU quota in thousandths of a processor */
    uint64_t groups;     /* bits 1 << UN_GROUP_... for limits that control groups enforce */
};

/* Parses limits in the form NAME=NUMBER[,NAME=NUMBER]..., or "" for none. Returns false if `text`
 * is malformed. */
bool limits_parse(const char *text, struct un_limits *limits);

/* ---- sandbox_group.c: the control groups of a sandbox ---------------------------------------- */

struct sandbox_group {
    /* descriptors of the parent cgroups in which the sandbox's cgroups are created, or -1 */
    int place[UN_GROUP_PARTS];
    /* descriptors of the sandbox's cgroups, or -1; the cgroups stay locked (flock(2)) until this
     * process exits */
    int dir[UN_GROUP_PARTS];
    int version[UN_GROUP_PARTS];
    char name[64];
};

/* Initializes the structure, for a sandbox without control groups. */
void sandbox_group_init(struct sandbox_group *group);
/* Creates the control groups that limits->groups selects. Returns 0, or -1 with the error in `err`
 * after removing the groups that it has created. */
int sandbox_group_make(struct sandbox_group *group, const struct un_limits *limits,
                       struct un_error *err);
bool sandbox_group_has(const struct sandbox_group *group, enum un_group_part part);
/* Moves this process into the control groups of the sandbox. Returns 0, or -1 with errno set. */
int sandbox_group_enter(const struct sandbox_group *group);
/* Kills all processes in the sandbox's control groups, and removes the groups. */
void sandbox_group_remove(struct sandbox_group *group);

/* Opens the file that counts OOM kills in the sandbox's control group, and stores the version of
 * cgroups in *version. Returns a descriptor, or -1. */
int sandbox_group_open_kills(const struct sandbox_group *group, int *version);
/* Returns the peak memory usage of the sandbox in bytes. */
uint64_t sandbox_group_peak(const struct sandbox_group *group);
/* Returns whether the kernel has denied a fork(2) in the sandbox because of pids.max. */
bool sandbox_group_refused(const struct sandbox_group *group);

/* ---- sandbox_command.c: starting the command that starts a sandbox --------------------------- */

/* Exit status of a watcher, a program that waits for the end of a sandbox, if the sandbox could not
 * be started. */
#define SANDBOX_FAILED 125
/* Exit status of a watcher that has killed its sandbox, except after a timeout (end_status()). */
#define SANDBOX_KILLED (128 + SIGKILL)

/* Prints `what` and the text for errno to standard error. Returns SANDBOX_FAILED. */
int sandbox_fail(const char *what);

/* Parses `count` numbers of inherited descriptors in `argv`, and stores the descriptors in `fds`.
 * Duplicates descriptors below 3 to higher numbers, and sets close-on-exec on all of them. Then
 * opens /dev/null as each of the descriptors 0 to 2 that is closed, so that no file opened later
 * can become the command's standard input, output or error. Returns 0, or -1 after printing an
 * error. */
int sandbox_take_fds(char **argv, int fds[], int count);

/* Executes the command `argv` in a child in the sandbox's control groups. Replaces standard input,
 * output and error of this process by /dev/null: they may be pipes to the reader of the sandbox's
 * output, who waits until all writers have closed them. Blocks SIGCHLD and SIGTERM, and stores a
 * nonblocking signalfd for them in *signals. Returns the pid of the child, or -1 after printing an
 * error. */
pid_t sandbox_start_command(char **argv, const struct sandbox_group *group, int *signals);

/* Reads all pending signals from the signalfd. Returns whether SIGTERM was among them. */
bool sandbox_read_signals(int signals);

/* ---- sandbox_end.c: why a watcher has killed its sandbox ------------------------------------- */

#define END_TEXT_MAX 256

struct un_end {
    const char *reason;   /* cause id of the sandbox's end, or NULL if no cause is known */
    uint64_t limit, used; /* the exceeded limit, and the usage: bytes, tasks or ms; 0 if unknown */
    /* message for the user: why the sandbox has ended, with the limit and the usage */
    char text[END_TEXT_MAX];
};

/* Returns the exit status of a watcher that has killed its sandbox for the reason in `end`. */
int end_status(const struct un_end *end);

/* Writes two lines to `fd`: "REASON LIMIT USED", and end->text. Returns 0, or -1 with errno set. */
int end_write(int fd, const struct un_end *end);

/* ---- network.c: joining the network namespace of a sandbox ----------------------------------- */

/* Argument that precedes the path and the options of usernsctl-network. */
#define UN_NETWORK "--network"
/* Options of usernsctl-network that name an inherited descriptor (programs/network/main.c). */
#define UN_LISTEN "--listen="
#define UN_ACCEPT "--accept="

/*
 * Creates the network of a sandbox if *argv starts with UN_NETWORK, which is followed by the path
 * of usernsctl-network, its options, and "--". Sets *argv to the command after "--".
 *
 * Starts usernsctl-network, joins the network namespace that it creates, drops the capabilities
 * that are needed only to create the network, and closes the descriptors in the options UN_LISTEN
 * and UN_ACCEPT. Stores a pidfd of usernsctl-network in *keeper, or -1 if no network is created.
 * The network ends when this process or usernsctl-network exits. Returns 0, or -1 with the error in
 * `err`.
 */
int network_join(char ***argv, int *keeper, struct un_error *err);
/* Describes in `end` that the sandbox was ended because its network has ended. */
void network_describe_end(struct un_end *end);

/* ---- oom_watch.c: noticing that the OOM killer has killed a process of gVisor ---------------- */

struct oom_watch {
    int fd;          /* descriptor of the file with the OOM kill counter, or -1 */
    bool has_events; /* whether poll(2) reports a change of the counter as POLLPRI on `fd` */
    bool is_own;     /* whether the counter counts only OOM kills in this sandbox */
    bool is_machine; /* whether the counter counts all OOM kills on the host */
    uint64_t kills;  /* value of the counter at the last check */
    /* number of remaining checks for a killed process of gVisor after the last OOM kill */
    int checks;
    int64_t next; /* time of the next check, unless an event comes first, in ms (un_now_ms()) */
};

void oom_watch_begin(struct oom_watch *watch, const struct sandbox_group *group);
/* Returns the time in ms until the next check, or -1 if no check is needed before an event of
 * watch->fd. */
int oom_watch_interval(const struct oom_watch *watch);
/* Returns whether the OOM killer has killed a process of the sandbox. `parent` is the pid of the
 * parent of the sandbox's main processes. */
bool oom_watch_check(struct oom_watch *watch, pid_t parent);
/* Returns whether an OOM kill explains runsc's exit status `status`. Returns false if the killed
 * process probably belonged to another sandbox. */
bool oom_watch_explains(const struct oom_watch *watch, int status);
/* Writes a description of an OOM kill to `end`: the memory usage and the memory limit of the
 * sandbox, or of this process's control group if the sandbox did not reach its own limit. */
void oom_describe(const struct sandbox_group *group, const struct un_limits *limits,
                  struct un_end *end);

/* ---- limit_watch.c: enforcing limits without control groups ---------------------------------- */

/* Maximum number of processes whose memory the watcher measures without a walk through the process
 * tree. Sandboxes usually have fewer processes. For a sandbox with more processes, no walk is
 * postponed. */
#define LIMIT_PROCESSES 256

struct limit_process {
    pid_t pid;
    int64_t time;   /* CPU time in microseconds at the last measurement, or -1 */
    uint64_t bytes; /* page tables and anonymous memory in bytes at the last measurement */
    bool is_busy;   /* whether the process has run since the last measurement */
};

/* The state of enforcing the limits of one sandbox. Times are in milliseconds, on the clock of
 * un_now_ms(), unless noted otherwise. */
struct limit_watch {
    struct un_limits limits;
    /* whether a limit must be enforced by measuring memory and tasks, because no control group
     * enforces the limit */
    bool measures;
    uint64_t most_memory; /* memory limit in bytes that no control group enforces, or 0 */
    int64_t start;        /* time at which limit_watch_begin() was called */
    int activity;         /* descriptor of the file "activity" (limit_watch_idle()), or -1 */
    /* last time at which a command is known to have run, or 0 before the sandbox has started */
    int64_t active;
    int64_t next_idle;     /* time of the next check for idleness */
    int64_t next_check;    /* time of the next measurement of memory and tasks */
    int64_t next_walk;     /* time of the next walk through the sandbox's process tree */
    int64_t last_walk;     /* time at which the last walk through the process tree started */
    int64_t walk_time;     /* CPU time of the sentry in microseconds at `last_walk`, or -1 */
    int pids;              /* descriptor from un_open_last_pid(), or -1 */
    int64_t last_pid;      /* last pid that the kernel had assigned at `last_walk`, or -1 */
    uint64_t bytes_per_ms; /* maximum growth of the memory usage in bytes per ms */
    /* The processes of the sandbox at `last_walk`, at most LIMIT_PROCESSES. */
    struct limit_process process[LIMIT_PROCESSES];
    size_t process_count;
    bool has_all;  /* whether `process` contains all processes of the sandbox at `last_walk` */
    pid_t sentry;  /* pid of the sentry, gVisor's kernel, or 0 if it was not found yet */
    bool is_bound; /* whether the kernel itself limits the tasks, by pids.max or RLIMIT_NPROC */
    struct un_memory_files files; /* memfds in which the sentry keeps the memory of the sandbox */
    uint64_t others;              /* page tables and anonymous memory of all processes, in bytes */
    uint64_t memory;              /* memory usage at the last measurement, in bytes */
    uint64_t peak;                /* highest memory usage of all measurements, in bytes */
    uint64_t tasks;               /* number of processes and threads at `last_walk` */
};

void limit_watch_begin(struct limit_watch *watch, const struct un_limits *limits);
/* Detects idleness by the file "activity", which this function creates in `directory` if the
 * sandbox has an idle timeout. A program that runs a command in the sandbox holds a shared lock of
 * the file (flock(2)), and sets the file's modification time to the time of CLOCK_MONOTONIC before
 * it releases the lock. Returns 0, or -1 with the error in `err`. */
int limit_watch_idle(struct limit_watch *watch, const char *directory, struct un_error *err);
/* Returns the time in ms after which limit_watch_check() must be called again, or -1 if there are
 * no limits to check. */
int limit_watch_interval(const struct limit_watch *watch);
/* Measures the sandbox if a measurement is due. Returns whether the sandbox exceeds a limit; if so,
 * describes the exceeded limit in `end`. `parent` is the pid of the parent of the sandbox's main
 * processes. */
bool limit_watch_check(struct limit_watch *watch, pid_t parent, struct un_end *end);
/* Returns whether gVisor has crashed because the limit of tasks did not allow another process; if
 * so, describes the crash in `end`. `refused` must be set if a fork(2) has failed because of
 * pids.max. `errors`, `crash` and `debug` are the paths of runsc's error log, crash report and
 * debug log. */
bool limit_watch_judge(const struct limit_watch *watch, bool refused, const char *errors,
                       const char *crash, const char *debug, struct un_end *end);
/* Describes in `end` that the sandbox has used `used` bytes, and so exceeded its memory limit. */
void limit_describe_memory(const struct un_limits *limits, uint64_t used, struct un_end *end);

/* ---- sandbox_wait.c: waiting for the end of a sandbox ---------------------------------------- */

#define SANDBOX_WAIT_FDS 2

struct sandbox_wait {
    int signals;                   /* signalfd from sandbox_start_command() */
    int network;                   /* pidfd of usernsctl-network, or -1 */
    int end_fds[SANDBOX_WAIT_FDS]; /* descriptors whose readability ends the wait, or -1 */
    int directory;                 /* descriptor of the directory that contains `end_file` */
    /* path of the file for the reason of the sandbox's end, or NULL */
    const char *end_file;
    char *const *command; /* command line of runsc, NULL-terminated */
    struct sandbox_group group;
    struct oom_watch oom;
    struct limit_watch limits;
};

/* Initializes the structure. Blocks SIGTERM, so that a SIGTERM before sandbox_wait_for_exit() stays
 * pending until that call, which then kills the sandbox. Also blocks SIGPIPE: if the reader of a
 * report has exited, SIGPIPE would otherwise kill this process before it has killed the processes
 * of the sandbox. */
void sandbox_wait_init(struct sandbox_wait *wait, char *const *command);
/* Sets up the limits of the sandbox before its start: creates the control groups, makes the limits
 * visible in the sandbox (sandbox_show_limits()), and starts to count OOM kills and to measure the
 * time. Returns 0, or -1 after sending the error to `fd` (error_send()). */
int sandbox_wait_begin(struct sandbox_wait *wait, const struct un_limits *limits,
                       const char *directory, bool shares_mounts, int fd);

/*
 * Waits for the exit of the child `pid`, and returns its exit status. If `others` is set, the
 * sandbox has started, and all other children are reaped, too. `parent` is the pid of the parent of
 * the sandbox's main processes.
 *
 * Returns earlier if SIGTERM arrives, if a descriptor in wait->end_fds becomes readable, if the OOM
 * killer kills a process of the sandbox, if the sandbox exceeds a limit, if its network ends, or if
 * wait4(2) fails.
 * The exit status is then SANDBOX_KILLED, or 124 after a timeout.
 */
int sandbox_wait_for_exit(struct sandbox_wait *wait, pid_t pid, bool others, pid_t parent);

/* Reads the pid file `path`, which runsc has written. Returns the pid, or 0 if the file can't be
 * read. */
pid_t sandbox_read_pid(const char *path);

/* Creates or truncates the file `path` in `directory`, and writes `text` to it. Ignores
 * failures. */
void sandbox_write_text(int directory, const char *path, const char *text);

/* ---- descendants.c: killing all processes that a program has started ------------------------- */

/* Makes this process a subreaper, and checks that kill_descendants() can list its children. Returns
 * 0, or -1 with errno set. */
int adopt_descendants(void);

/* A child of this process that is not necessarily part of the sandbox. If a shell replaces
 * itself by this program (exec), for example, the children of the shell become children of this
 * process. */
struct child {
    pid_t pid;
    uint64_t start; /* start time of the child, in clock ticks since boot */
};

struct children {
    struct child *child;
    size_t count;
};

/* Adds to `children` all children that this process has now. */
void children_read(struct children *children);
void children_add(struct children *children, pid_t pid);

/* Kills and reaps all descendants of this process except the children in `spared`, which may be
 * NULL. This process must be a subreaper or PID 1 of a PID namespace. Gives up after 5 s, because a
 * killed process may hang in the kernel. */
void kill_descendants(const struct children *spared);

/* Reaps children as they exit, until only those in `spared` remain, or for `timeout`
 * milliseconds. */
void reap_descendants(const struct children *spared, int timeout);

/* The file that lists the children of this thread. In a single-threaded process, these are all
 * children of the process. */
#define CHILDREN "/proc/thread-self/children"

/* ---- sandbox_limits.c: limits that programs in a sandbox see --------------------------------- */

/* Makes the limits visible in the sandbox by un_show_limits(), with the file "meminfo" in
 * `directory`. If limits->disk is set, also mounts the tmpfs for writes to the root filesystem on
 * the new directory "disk" in `directory`. Returns 0, or -1 with the error in `err`. */
int sandbox_show_limits(const char *directory, const struct un_limits *limits, bool shares_mounts,
                        struct un_error *err);

/* ---- proof.c: checking that the kernel is gVisor's ------------------------------------------- */

/* Error message of a program that does not run on gVisor's kernel. */
#define UN_NOT_PROVEN                                                                              \
    "not started: this kernel is not gVisor's: gVisor's build date or boot message is missing"

/* Option of usernsctl-verify for a health check. */
#define UN_HEALTH_OPTION "--health"
/* Timeout in seconds for the payload of a health check. */
#define UN_HEALTH_SECONDS 10

/* Returns whether the kernel is gVisor's. Uses system calls only, so that neither a mount on /proc
 * nor any file can fake the result. */
bool un_runs_on_gvisor(void);

#endif
