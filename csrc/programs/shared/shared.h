/* Functions that several programs share. Internal. */
#ifndef USERNSCTL_PROGRAMS_SHARED_SHARED_H
#define USERNSCTL_PROGRAMS_SHARED_SHARED_H

#include "facts/facts.h"
#include "include/usernsctl.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* A plan for id maps, and the facts on which the plan is based. The structure is too large for a
 * small stack. */
struct decision {
    struct un_facts facts;
    struct un_plan plan;
};

/* ---- report.c: messages on standard error ---------------------------------------------------- */

/* A message for standard error. Members that a message lacks are NULL. */
struct report {
    const char *program;
    const char *level; /* "warning" or "notice"; NULL means "error" */
    const char *step;
    const char *message; /* what has failed and why, in one line */
    const char *cause;   /* id of the cause; an unknown id is not printed */
    const char *why;     /* explanation to print instead of the cause's */
    const char *details; /* further lines about the message */
    const char *remedy;  /* lines to print instead of the cause's remedy */
    const char *more;    /* text that refers the user to more information */
};

/* Makes this process print all messages as JSON, one object per line. */
void report_in_json(void);

/* Prints a message to standard error. The texts of the message must be printable. */
void report_message(struct report report);

/* Prints an error to standard error, with the failed step, the reason, and the remedy. */
void report_error(const char *program, const struct un_error *err);

/* Prints an error like report_error(), but with the remedy `remedy` if it is not NULL. */
void report_error_with(const char *program, const struct un_error *err, const char *remedy);

/* ---- error_fields.c: errors for the program that started this one ---------------------------- */

#define ERROR_FIELDS 6
#define ERROR_FIELDS_MAX (2 * UN_DETAIL_MAX + 256)

/* Determines the cause of an error by un_diagnose(), and writes the fields of the error to `fd`,
 * each terminated by NUL: step, errno, cause, detail, path and remedy. Returns -1. */
int error_send(int fd, struct un_error *err);
/* Parses the fields of an error in `text`, as error_send() writes them, and stores the error in
 * `err`. Returns false if `text` is malformed. */
bool error_parse(const char *text, size_t size, struct un_error *err);

/* ---- early_signals.c: signals that arrive before the watcher can forward them ---------------- */

/*
 * Blocks all signals that terminate a process. The kernel discards a signal for PID 1 of a
 * container if PID 1 neither handles nor blocks the signal. A blocked signal stays pending until
 * the watcher forwards it, so that an early `docker stop` is not lost. Returns 0, or -1 with errno
 * set.
 */
int keep_early_signals(void);
/* Opens a signalfd for the signals that keep_early_signals() blocks. Returns a descriptor, or -1
 * with errno set. */
int open_kept_signals(void);

/* ---- stay_outside.c: PID 1 of a container with a user namespace ------------------------------ */

/*
 * Forks if this process is PID 1 of a container that has a user namespace of its own, so that only
 * the child enters another user namespace. Container engines start further programs, such as health
 * checks and probes, in the namespaces of PID 1. The engine's setns(2) would fail if PID 1 had
 * entered another user namespace. Returns false in the process that is to continue, and true in PID
 * 1 after the exit of the child, whose exit status is stored in *status. After a failed fork,
 * returns true with *status -1 and errno set.
 */
bool stay_outside(int *status);

/* ---- limits.c: the limits that a watcher enforces -------------------------------------------- */

/* Limits of one sandbox. A member is 0 if there is no limit. */
struct un_limits {
    uint64_t memory;     /* memory limit in bytes */
    uint64_t pids;       /* maximum number of tasks */
    uint64_t processors; /* number of processors, which sandbox_show_limits() applies */
    uint64_t disk;       /* size in bytes of the tmpfs that sandbox_show_limits() mounts */
    uint64_t timeout;    /* time limit in milliseconds */
    uint64_t idle;       /* milliseconds without a command after which the sandbox ends */
    uint64_t quota;      /* processor time in thousandths of a processor */
    uint64_t groups;     /* bits 1 << UN_GROUP_... of the limits that control groups enforce */
};

/* Parses limits of the form NAME=NUMBER[,NAME=NUMBER]..., or "" for no limits. Returns false if
 * `text` is malformed. */
bool limits_parse(const char *text, struct un_limits *limits);

/* ---- sandbox_group.c: the control groups of a sandbox ---------------------------------------- */

struct sandbox_group {
    int place[UN_GROUP_PARTS]; /* descriptors of the parent directories, or -1 */
    int dir[UN_GROUP_PARTS];   /* descriptors of the groups' directories, or -1; locked until this
                                  process exits */
    int version[UN_GROUP_PARTS];
    char name[64];
};

/* Initializes the structure for a sandbox without control groups. */
void sandbox_group_init(struct sandbox_group *group);
/* Creates the control groups for limits->groups. Returns 0. After a failure, removes the groups
 * that were created, and returns -1. */
int sandbox_group_make(struct sandbox_group *group, const struct un_limits *limits,
                       struct un_error *err);
bool sandbox_group_has(const struct sandbox_group *group, enum un_group_part part);
/* Moves this process to the control groups of the sandbox. Returns 0, or -1 with errno set. */
int sandbox_group_enter(const struct sandbox_group *group);
/* Kills all processes in the control groups, and removes the groups. */
void sandbox_group_remove(struct sandbox_group *group);

/* Opens the file that counts OOM kills in the sandbox's control group. Returns a descriptor or -1,
 * and stores the version of control groups, as un_limit_open() does. */
int sandbox_group_open_kills(const struct sandbox_group *group, int *version);
/* Returns the peak memory usage of the sandbox in bytes. */
uint64_t sandbox_group_peak(const struct sandbox_group *group);
/* Checks whether a fork(2) in the sandbox has failed because of the limit of pids. */
bool sandbox_group_refused(const struct sandbox_group *group);

/* ---- sandbox_command.c: starting the command that starts a sandbox --------------------------- */

/* Exit statuses of a watcher: SANDBOX_FAILED after a failure before the sandbox ran, SANDBOX_KILLED
 * if the watcher has ended the sandbox. */
#define SANDBOX_FAILED 125
#define SANDBOX_KILLED (128 + SIGKILL)

/* Prints `what` and the message of errno to standard error. Returns SANDBOX_FAILED. */
int sandbox_fail(const char *what);

/*
 * Parses the numbers of `count` inherited descriptors in `argv`, and stores the descriptors in
 * `fds`. Moves descriptors below 3 to higher numbers, and sets close-on-exec on all descriptors.
 * Then opens /dev/null as each of the descriptors 0 to 2 that is closed, so that no file opened
 * later becomes the standard input, output or error of the command. Returns 0, or -1 after printing
 * an error.
 */
int sandbox_take_fds(char **argv, int fds[], int count);

/*
 * Executes argv in a child in the control groups. Redirects standard input, output and error of
 * this process to /dev/null, because a reader of the sandbox's output waits until all writers have
 * closed the pipe. Blocks SIGCHLD and SIGTERM, and stores a nonblocking signalfd for them in
 * *signals. Returns the pid of the child, or -1 after printing an error.
 */
pid_t sandbox_start_command(char **argv, const struct sandbox_group *group, int *signals);

/* Reads all pending signals from the signalfd. Returns whether SIGTERM was among them. */
bool sandbox_read_signals(int signals);

/* ---- sandbox_end.c: why a watcher has ended its sandbox -------------------------------------- */

#define END_TEXT_MAX 256

struct un_end {
    const char *reason; /* id of the cause, or NULL while the watcher has not ended the sandbox */
    uint64_t limit,
        used; /* the exceeded limit, and the usage, in bytes, tasks or milliseconds; 0 if unknown */
    char text[END_TEXT_MAX]; /* message for the user about the reason, the limit and the usage */
};

/* Returns the exit status for a watcher that has ended its sandbox for the reason in `end`. */
int end_status(const struct un_end *end);

/* Writes two lines to `fd`: "REASON LIMIT USED", and end->text. Returns 0, or -1 with errno set. */
int end_write(int fd, const struct un_end *end);

/* ---- network.c: the network of a sandbox ----------------------------------------------------- */

/* The argument that precedes the path and the options of usernsctl-network. */
#define UN_NETWORK "--network"
/* Options of usernsctl-network whose value contains the number of an inherited descriptor
 * (programs/network/main.c). */
#define UN_LISTEN "--listen="
#define UN_ACCEPT "--accept="

/*
 * Creates the network of a sandbox if *argv begins with UN_NETWORK, the path and options of
 * usernsctl-network, and "--". Starts usernsctl-network, joins the network namespace that it
 * creates, and drops the capabilities that only this function needs. Closes the descriptors in the
 * options UN_LISTEN and UN_ACCEPT. Stores the command after "--" in *argv, and a pidfd of
 * usernsctl-network, or -1 without a network, in *keeper. The network ends when this process or
 * usernsctl-network exits. Returns 0, or -1 with the error in `err`.
 */
int network_join(char ***argv, int *keeper, struct un_error *err);
/* Stores in `end` that the sandbox was ended because its network has ended. */
void network_describe_end(struct un_end *end);

/* ---- oom_watch.c: noticing that the OOM killer has killed a process of gVisor ---------------- */

struct oom_watch {
    int fd;          /* descriptor of the file that counts OOM kills, or -1 */
    bool has_events; /* whether poll(2) reports a change of the count as POLLPRI of `fd` */
    bool is_own;     /* whether the file counts only OOM kills in the sandbox */
    bool is_machine; /* whether the file counts the OOM kills of the whole machine */
    uint64_t kills;  /* number of OOM kills at the last check */
    int checks;      /* number of checks that are still to be done because of the last OOM kill */
    int64_t next;    /* time of the next check if no event occurs, in ms (un_now_ms()) */
};

void oom_watch_begin(struct oom_watch *watch, const struct sandbox_group *group);
/* Returns the time in milliseconds until the next check, or -1 if a check is needed only after an
 * event of watch->fd. */
int oom_watch_interval(const struct oom_watch *watch);
/* Checks whether the OOM killer has killed a process of the sandbox. The main processes of the
 * sandbox are children of the process `parent`. */
bool oom_watch_check(struct oom_watch *watch, pid_t parent);
/* Checks whether an OOM kill explains `status`, the exit status of runsc. An OOM kill explains the
 * status if the killed process probably does not belong to another sandbox. */
bool oom_watch_explains(const struct oom_watch *watch, int status);
/* Describes an OOM kill in `end`, with the memory usage, and with the memory limit of the sandbox,
 * or of this process's control group if the sandbox has no limit. */
void oom_describe(const struct sandbox_group *group, const struct un_limits *limits,
                  struct un_end *end);

/* ---- limit_watch.c: enforcing limits without control groups ---------------------------------- */

/* Maximum number of processes that the watcher measures separately. A sandbox usually has fewer. If
 * it has more, the watcher must walk through all processes frequently. */
#define LIMIT_PROCESSES 256

struct limit_process {
    pid_t pid;
    int64_t time;   /* processor time in microseconds at the last measurement, or -1 */
    uint64_t bytes; /* size of page tables and anonymous memory at the last measurement */
    bool is_busy;   /* whether the process has run since the last measurement */
};

/* Times are in ms of un_now_ms(), unless a member names another unit. */
struct limit_watch {
    struct un_limits limits;
    bool measures;        /* whether the watcher must measure the usage of the sandbox */
    uint64_t most_memory; /* memory limit in bytes that the watcher enforces, or 0 */
    int64_t start;        /* time of the sandbox's start */
    int activity;         /* descriptor of the file that limit_watch_idle() opens, or -1 */
    int64_t active;     /* latest time at which a command is known to have run; 0 while the sandbox
                           starts */
    int64_t next_idle;  /* time of the next check of `activity` */
    int64_t next_check; /* time of the next measurement of memory and tasks */
    int64_t next_walk;  /* time of the next walk through all processes */
    int64_t last_walk;  /* time of the last walk through all processes */
    int64_t walk_time;  /* processor time of the sentry at the last walk, in microseconds, or -1 */
    int pids;           /* descriptor of the file that un_last_pid() reads, or -1 */
    int64_t last_pid;   /* result of un_last_pid() at the last walk, or -1 */
    uint64_t bytes_per_ms; /* maximum rate at which the memory usage of the sandbox grows */
    /* The processes that the last walk has found, at most LIMIT_PROCESSES. */
    struct limit_process process[LIMIT_PROCESSES];
    size_t process_count;
    bool has_all;  /* whether `process` contains all processes of the sandbox */
    pid_t sentry;  /* pid of the sentry, gVisor's kernel, or 0 before it was found */
    bool is_bound; /* whether the kernel limits the tasks (pids.max or RLIMIT_NPROC) */
    struct un_memory_files files; /* files in which the sentry keeps the memory of the sandbox */
    uint64_t others; /* bytes of page tables and anonymous memory of all processes of the sandbox */
    uint64_t memory; /* memory usage in bytes at the last measurement */
    uint64_t peak;   /* greatest memory usage in bytes of all measurements */
    uint64_t tasks;  /* number of processes and threads at the last walk */
};

void limit_watch_begin(struct limit_watch *watch, const struct un_limits *limits);
/* Creates the file "activity" in `directory` if limits->idle is set. Programs that run a command in
 * the sandbox hold a shared lock of this file (flock(2)), and set the file's modification time to
 * the time of CLOCK_MONOTONIC before they release the lock. Returns 0, or -1 with the error in
 * `err`. */
int limit_watch_idle(struct limit_watch *watch, const char *directory, struct un_error *err);
/* Returns the time in milliseconds until the next call of limit_watch_check(), or -1 if there are
 * no limits to check. */
int limit_watch_interval(const struct limit_watch *watch);
/* Measures the sandbox if a measurement is due. The main processes of the sandbox are children of
 * the process `parent`. Returns whether the sandbox exceeds a limit, and if so describes the limit
 * in `end`. */
bool limit_watch_check(struct limit_watch *watch, pid_t parent, struct un_end *end);
/* Checks whether gVisor has crashed because it could not start a process within the limit of tasks,
 * and if so describes the limit in `end`. `refused` means that pids.max has made a fork(2) fail.
 * `errors`, `crash` and `debug` are the paths of runsc's error log, crash report and debug log. */
bool limit_watch_judge(const struct limit_watch *watch, bool refused, const char *errors,
                       const char *crash, const char *debug, struct un_end *end);
/* Describes in `end` that the sandbox has exceeded its memory limit by using `used` bytes. */
void limit_describe_memory(const struct un_limits *limits, uint64_t used, struct un_end *end);

/* ---- sandbox_wait.c: waiting for the end of a sandbox ---------------------------------------- */

#define SANDBOX_WAIT_FDS 2

struct sandbox_wait {
    int signals;                   /* signalfd, see sandbox_start_command() */
    int network;                   /* pidfd of usernsctl-network, or -1 */
    int end_fds[SANDBOX_WAIT_FDS]; /* descriptors that end the wait when they become readable, or
                                      -1 */
    int directory;                 /* descriptor of the directory to which `end_file` is relative */
    const char *end_file; /* path of the file to which the reason for the end of the sandbox is
                             written, or NULL */
    char *const *command; /* arguments of the command, see sandbox_start_command() */
    struct sandbox_group group;
    struct oom_watch oom;
    struct limit_watch limits;
};

/* Initializes the structure, and blocks SIGTERM, so that a SIGTERM that arrives before
 * sandbox_wait_for_exit() ends the sandbox, too. */
void sandbox_wait_init(struct sandbox_wait *wait, char *const *command);
/* Sets up the limits before the start of the sandbox. Creates the control groups, calls
 * sandbox_show_limits() for `directory`, and begins to count OOM kills and to measure the time.
 * Returns 0, or -1 after sending the error to `fd` (error_send()). */
int sandbox_wait_begin(struct sandbox_wait *wait, const struct un_limits *limits,
                       const char *directory, bool shares_mounts, int fd);

/* Waits for the exit of the child `pid`, and reaps all other children too if `others` is set. The
 * main processes of the sandbox are children of the process `parent`. Returns the exit status of
 * `pid`. Returns earlier, usually with SANDBOX_KILLED, if a descriptor in wait->end_fds becomes
 * readable, if SIGTERM arrives, if the OOM killer kills a process of the sandbox, if the sandbox's
 * network ends, or if the sandbox exceeds a limit. */
int sandbox_wait_for_exit(struct sandbox_wait *wait, pid_t pid, bool others, pid_t parent);

/* Reads the pid file `path`, which runsc has written. Returns the pid, or 0 if the file can't be
 * read. */
pid_t sandbox_read_pid(const char *path);

/* Creates the file `path` in `directory`, and writes `text` to it. Ignores failures. */
void sandbox_write_text(int directory, const char *path, const char *text);

/* ---- descendants.c: killing all processes that a program has started ------------------------- */

/* Makes this process the subreaper of its descendants, and checks that kill_descendants() can find
 * them. Returns 0, or -1 with errno set. */
int adopt_descendants(void);

/* A child of this process that may not belong to the sandbox. If a shell executes this program in
 * place of itself, the shell's children become children of this process. */
struct child {
    pid_t pid;
    uint64_t start; /* start time of the child, in clock ticks since boot */
};

struct children {
    struct child *child;
    size_t count;
};

/* Adds all current children of this process to `children`. */
void children_read(struct children *children);
void children_add(struct children *children, pid_t pid);

/* Kills and reaps all descendants of this process, except the children in `spared`, which may be
 * NULL. This process must be a subreaper or PID 1. Stops waiting after some seconds even if a
 * process remains, because a killed process may hang in the kernel. */
void kill_descendants(const struct children *spared);

/* Waits at most `timeout` milliseconds until all children except the children in `spared` have
 * exited, and reaps them. */
void reap_descendants(const struct children *spared, int timeout);

/* The file in /proc that lists the children of this process, which must have a single thread. */
#define CHILDREN "/proc/thread-self/children"

/* ---- sandbox_limits.c: limits that programs in a sandbox see --------------------------------- */

/* Calls un_show_limits() with the file "meminfo" in `directory`. If limits->disk is set, creates
 * the directory "disk" in `directory`, and mounts the tmpfs for writes to the root filesystem
 * there. Returns 0, or -1 with the error in `err`. */
int sandbox_show_limits(const char *directory, const struct un_limits *limits, bool shares_mounts,
                        struct un_error *err);

/* ---- proof.c: checking that the kernel is gVisor's ------------------------------------------- */

/* Error message of a program that runs on a kernel other than gVisor's. */
#define UN_NOT_PROVEN                                                                              \
    "not started: this kernel is not gVisor's (gVisor's build date or boot message is missing), "  \
    "so the program called runsc created no sandbox"

/* Option of usernsctl-verify for health checks, and the time limit in seconds for the payload of a
 * health check. */
#define UN_HEALTH_OPTION "--health"
#define UN_HEALTH_SECONDS 10

/* Checks whether the kernel is gVisor's. Uses system calls only, so that neither a mounted /proc
 * nor a file can fake the result. */
bool un_runs_on_gvisor(void);

#endif
