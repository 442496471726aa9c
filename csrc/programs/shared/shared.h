/* Functions that several programs share. Internal. */
#ifndef USERNSCTL_PROGRAMS_SHARED_SHARED_H
#define USERNSCTL_PROGRAMS_SHARED_SHARED_H

#include "facts/facts.h"
#include "include/usernsctl.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* A plan and its facts, which do not fit a small stack. */
struct decision {
    struct un_facts facts;
    struct un_plan plan;
};

/* ---- report.c: messages on standard error ---------------------------------------------------- */

/* A message for standard error. Members without a text are NULL. */
struct report {
    const char *program;
    const char *level; /* "warning" or "notice"; NULL means "error" */
    const char *step;
    const char *message; /* one line */
    const char *cause;   /* the id of a cause; an unknown id is left out */
    const char *why;     /* in place of the cause's explanation */
    const char *details; /* lines */
    const char *remedy;  /* lines, in place of the cause's remedy */
    const char *more;    /* where to find out more */
};

/* Makes this process print all messages in JSON, each as one object in a line. */
void report_in_json(void);

/* Prints a message. Its texts must be printable. */
void report_message(struct report report);

/* Prints an error: the step, the reason, and the remedy. */
void report_error(const char *program, const struct un_error *err);

/* Prints an error with `remedy`, or, if that is NULL, with the remedy of the error's cause. */
void report_error_with(const char *program, const struct un_error *err, const char *remedy);

/* ---- error_fields.c: errors for the program that started this one ---------------------------- */

#define ERROR_FIELDS 6
#define ERROR_FIELDS_MAX (2 * UN_DETAIL_MAX + 256)

/* Writes the fields of an error, each terminated by NUL: step, errno, cause, detail, path and
 * remedy. Determines the cause first, as un_diagnose() does. Returns -1. */
int error_send(int fd, struct un_error *err);
/* Reads the fields of an error. Returns false if `text` is malformed. */
bool error_parse(const char *text, size_t size, struct un_error *err);

/* ---- early_signals.c: signals before the watcher can forward them ---------------------------- */

/*
 * Blocks signals that end a program. Process 1 of a container never gets a signal that it neither
 * handles nor blocks; a blocked signal stays pending until the watcher forwards it, so that an
 * early docker stop is not lost. Returns 0, or -1 with errno.
 */
int keep_early_signals(void);
/* Opens a signalfd for the signals that keep_early_signals() blocks. Returns -1 with errno. */
int open_kept_signals(void);

/* ---- stay_outside.c: process 1 of a container with a user namespace ------------------------- */

/*
 * If this is process 1 of a container that has a user namespace of its own, continues in a child:
 * engines start further programs, such as health checks and probes, in the namespaces of process 1,
 * and their setns(2) fails if process 1 has entered another user namespace. Returns false in the
 * process that is to continue, and true in process 1 with the exit status of the child; the status
 * is -1 after a failed fork, with errno.
 */
bool stay_outside(int *status);

/* ---- limits.c: the limits that a watcher enforces -------------------------------------------- */

/* Limits of one sandbox; 0 for no limit. */
struct un_limits {
    uint64_t memory;     /* bytes */
    uint64_t pids;       /* tasks */
    uint64_t processors; /* set before the start, by sandbox_show_limits() */
    uint64_t disk;       /* bytes; the tmpfs is mounted before the start */
    uint64_t timeout;    /* milliseconds */
    uint64_t idle;       /* milliseconds without a command; see limit_watch_idle() */
    uint64_t quota;      /* thousandths of a processor */
    uint64_t groups;     /* bits 1 << UN_GROUP_...: the parts that control groups enforce */
};

/* Parses NAME=NUMBER[,NAME=NUMBER]..., or "" for no limits. Returns false if `text` is malformed.
 */
bool limits_parse(const char *text, struct un_limits *limits);

/* ---- sandbox_group.c: the control groups of a sandbox ---------------------------------------- */

struct sandbox_group {
    int place[UN_GROUP_PARTS]; /* parent directories, or -1 */
    int dir[UN_GROUP_PARTS];   /* group directories, or -1; locked until this process ends */
    int version[UN_GROUP_PARTS];
    char name[64];
};

/* Initializes the structure for a sandbox without control groups. */
void sandbox_group_init(struct sandbox_group *group);
/* Makes the groups that limits->groups demands. Returns 0, or -1 after removing them. */
int sandbox_group_make(struct sandbox_group *group, const struct un_limits *limits,
                       struct un_error *err);
bool sandbox_group_has(const struct sandbox_group *group, enum un_group_part part);
/* Moves this process to the groups. Returns 0, or -1 with errno. */
int sandbox_group_enter(const struct sandbox_group *group);
/* Kills all processes of the groups, and removes the groups. */
void sandbox_group_remove(struct sandbox_group *group);

/* Opens the file that counts OOM kills, as un_limit_open() does. */
int sandbox_group_open_kills(const struct sandbox_group *group, int *version);
/* Returns the most memory that the sandbox has used, in bytes. */
uint64_t sandbox_group_peak(const struct sandbox_group *group);
/* Returns whether the kernel has refused to start a process because of the limit. */
bool sandbox_group_refused(const struct sandbox_group *group);

/* ---- sandbox_command.c: starting the command that starts a sandbox --------------------------- */

/* Exit statuses: a failure before the sandbox ran, and the exit of the creator. */
#define SANDBOX_FAILED 125
#define SANDBOX_KILLED (128 + SIGKILL)

/* Prints an error with the text of errno. Returns SANDBOX_FAILED. */
int sandbox_fail(const char *what);

/*
 * Takes over `count` inherited descriptors, whose numbers are the arguments in `argv`. They are
 * stored in `fds`, with numbers above 2, and get close-on-exec. Descriptors 0 to 2 that are closed,
 * or were among them, become /dev/null, so that a file opened later is not taken for standard input
 * or output by COMMAND. Returns 0, or -1 after printing an error.
 */
int sandbox_take_fds(char **argv, int fds[], int count);

/*
 * Runs argv in a child, in the control groups, and redirects standard input, output and error of
 * this process to /dev/null, because a reader of the sandbox's output waits for all writers to
 * close it. *signals becomes a nonblocking signalfd for SIGCHLD and SIGTERM, which are blocked.
 * Returns the pid of the child, or -1 after printing an error.
 */
pid_t sandbox_start_command(char **argv, const struct sandbox_group *group, int *signals);

/* Reads all pending signals from the signalfd. Returns whether SIGTERM was among them. */
bool sandbox_read_signals(int signals);

/* ---- sandbox_end.c: why a watcher has ended its sandbox -------------------------------------- */

#define END_TEXT_MAX 256

struct un_end {
    const char *reason;      /* the id of a cause, or NULL while the watcher has ended nothing */
    uint64_t limit, used;    /* bytes, tasks, or milliseconds; 0 if unknown */
    char text[END_TEXT_MAX]; /* a sentence about the reason, the limit and the usage */
};

/* Returns the exit status of a watcher that has ended its sandbox. */
int end_status(const struct un_end *end);

/* Writes two lines to a file: "REASON LIMIT USED", and the sentence. Returns 0, or -1 with errno.
 */
int end_write(int fd, const struct un_end *end);

/* ---- network.c: the network of a sandbox ----------------------------------------------------- */

/* The word before the path and the options of usernsctl-network. */
#define UN_NETWORK "--network"
/* The options of usernsctl-network with a port and an inherited descriptor
 * (programs/network/main.c). */
#define UN_LISTEN "--listen="
#define UN_ACCEPT "--accept="

/*
 * Makes the network of a sandbox if *argv begins with UN_NETWORK, the path and options of
 * usernsctl-network, and "--": starts that program, joins the network namespace that it makes, and
 * drops the capabilities that only this needs. *argv becomes the command after "--", and *keeper a
 * pidfd of usernsctl-network, or -1 without network. The network ends when this process ends, or
 * when usernsctl-network does. Closes the descriptors of these options. Returns 0, or -1.
 */
int network_join(char ***argv, int *keeper, struct un_error *err);
/* Describes the end of a sandbox because of the end of its network. */
void network_describe_end(struct un_end *end);

/* ---- oom_watch.c: processes of gVisor that the kernel's OOM killer kills --------------------- */

struct oom_watch {
    int fd;          /* the file that counts OOM kills, or -1 */
    bool has_events; /* whether a change of the count is an event of fd (POLLPRI) */
    bool is_own;     /* whether the file counts only kills of processes of the sandbox */
    bool is_machine; /* whether the file counts the kills of the whole machine */
    uint64_t kills;  /* the count at the last check */
    int checks;      /* the number of checks still to be made after the last kill */
    int64_t next;    /* time of the next check without an event, on the clock of un_now_ms() */
};

void oom_watch_begin(struct oom_watch *watch, const struct sandbox_group *group);
/* Returns the time until the next check in milliseconds, or -1 if only an event requires a
 * check. */
int oom_watch_interval(const struct oom_watch *watch);
/* Returns whether the kernel has killed a process of the sandbox, whose main processes are children
 * of `parent`. */
bool oom_watch_check(struct oom_watch *watch, pid_t parent);
/* Returns whether the OOM killer explains `status`, the exit status of runsc: the kernel has killed
 * a process that no check has attributed to another sandbox. */
bool oom_watch_explains(const struct oom_watch *watch, int status);
/* Describes an OOM kill in `end`, with the memory limit of the sandbox, or that of this process's
 * control group, and the memory used. */
void oom_describe(const struct sandbox_group *group, const struct un_limits *limits,
                  struct un_end *end);

/* ---- limit_watch.c: limits without control groups -------------------------------------------- */

/* More processes than a sandbox usually has; with more, walks through all of them are frequent. */
#define LIMIT_PROCESSES 256

struct limit_process {
    pid_t pid;
    int64_t time;   /* processor time in microseconds when the process was last measured, or -1 */
    uint64_t bytes; /* size of its page tables and anonymous memory at that time */
    bool is_busy;   /* whether the process has run since then */
};

struct limit_watch {
    struct un_limits limits;
    bool measures;        /* whether the watcher must measure the usage of the sandbox */
    uint64_t most_memory; /* the limit that the watcher enforces, in bytes, or 0 */
    int64_t start;        /* time of the sandbox's start, on the clock of un_now_ms() */
    int activity;         /* the file that limit_watch_idle() opens, or -1 */
    int64_t active; /* last known time at which a command ran, on the clock of un_now_ms(); 0 during
                       the start */
    int64_t next_idle;  /* time of the next check of `activity` */
    int64_t next_check; /* time of the next measurement of the memory and the tasks */
    int64_t next_walk;  /* time of the next walk through all processes */
    int64_t last_walk;  /* time of the last walk */
    int64_t walk_time;  /* processor time of the sentry at the last walk, in microseconds, or -1 */
    int pids;           /* descriptor for un_last_pid() */
    int64_t last_pid;   /* result of un_last_pid() at the last walk, or -1 */
    uint64_t bytes_per_ms; /* rate at which the memory of the sandbox can grow */
    /* The processes that the last walk has found, up to LIMIT_PROCESSES. */
    struct limit_process process[LIMIT_PROCESSES];
    size_t process_count;
    bool has_all;                 /* whether `process` has all of them */
    pid_t sentry;                 /* the process of gVisor's kernel, or 0 before it is found */
    bool is_bound;                /* whether RLIMIT_NPROC limits the tasks of the sandbox */
    struct un_memory_files files; /* memory files of the sentry */
    uint64_t others;              /* bytes of page tables and anonymous memory of all processes */
    uint64_t memory;              /* memory in bytes at the last measurement */
    uint64_t peak;                /* greatest memory in bytes of all measurements */
    uint64_t tasks;               /* processes and threads at the last measurement */
};

void limit_watch_begin(struct limit_watch *watch, const struct un_limits *limits);
/* Creates the file "activity" in `directory` if limits->idle is set. Programs that run a command in
 * the sandbox hold a shared lock of the file (flock(2)), and set its time of modification to
 * CLOCK_MONOTONIC before they release the lock. Returns 0, or -1. */
int limit_watch_idle(struct limit_watch *watch, const char *directory, struct un_error *err);
/* Returns the time until the next measurement in milliseconds, or -1 without limits. */
int limit_watch_interval(const struct limit_watch *watch);
/* Measures the sandbox, whose main processes are children of `parent`. Returns whether the sandbox
 * exceeds a limit, which `end` then describes. */
bool limit_watch_check(struct limit_watch *watch, pid_t parent, struct un_end *end);
/* Returns whether gVisor has crashed because the limit of tasks kept it from starting a process,
 * which `end` then describes. `refused` says whether pids.max has made a fork(2) fail. The paths
 * are those of runsc's error log, crash report and debug log. */
bool limit_watch_judge(const struct limit_watch *watch, bool refused, const char *errors,
                       const char *crash, const char *debug, struct un_end *end);
/* Describes in `end` that the sandbox has used `used` bytes of memory, more than its limit. */
void limit_describe_memory(const struct un_limits *limits, uint64_t used, struct un_end *end);

/* ---- sandbox_wait.c: waiting for the end of a sandbox ---------------------------------------- */

#define SANDBOX_WAIT_FDS 2

struct sandbox_wait {
    int signals;                   /* see sandbox_start_command() */
    int network;                   /* pidfd of usernsctl-network, or -1 */
    int end_fds[SANDBOX_WAIT_FDS]; /* descriptors that end the wait when they are readable, or -1 */
    int directory;                 /* descriptor of the directory that `end_file` starts from */
    const char *end_file;          /* path of the file for the reason of the end, or NULL */
    char *const *command;          /* see sandbox_start_command() */
    struct sandbox_group group;
    struct oom_watch oom;
    struct limit_watch limits;
};

/* Initializes the structure, and blocks SIGTERM: one that arrives before the wait ends the sandbox,
 * too. */
void sandbox_wait_init(struct sandbox_wait *wait, char *const *command);
/* Prepares the limits before the start: makes the control groups, and the files and mounts of
 * sandbox_show_limits() in `directory`. Begins to count OOM kills and the time. After a failure,
 * sends the error to `fd` (error_send()). Returns 0, or -1. */
int sandbox_wait_begin(struct sandbox_wait *wait, const struct un_limits *limits,
                       const char *directory, bool shares_mounts, int fd);

/* Waits for the exit of the child `pid`, and reaps all other children too if `others` is set. The
 * processes of the sandbox are children of `parent`. Returns the exit status, or SANDBOX_KILLED if
 * the wait is ended, SIGTERM comes, the kernel kills a process of the sandbox, or the sandbox
 * exceeds a limit, first. */
int sandbox_wait_for_exit(struct sandbox_wait *wait, pid_t pid, bool others, pid_t parent);

/* Reads the pid file that runsc has written. Returns 0 if there is no pid. */
pid_t sandbox_read_pid(const char *path);

/* Writes a text into a file, which is created. A failure is ignored. */
void sandbox_write_text(int directory, const char *path, const char *text);

/* ---- descendants.c: ending all processes that a program has started -------------------------- */

/* Makes this process the subreaper of its descendants, and checks that kill_descendants() can find
 * them. Returns 0, or -1 with errno. */
int adopt_descendants(void);

/* A child that does not belong to the sandbox: a program that a shell executes in its own process
 * inherits the shell's children. */
struct child {
    pid_t pid;
    uint64_t start; /* start time of the child, in clock ticks since boot */
};

struct children {
    struct child *child;
    size_t count;
};

/* Adds all present children of this process to the list. */
void children_read(struct children *children);
void children_add(struct children *children, pid_t pid);

/* Kills and reaps all descendants of this process, which must be their subreaper or process 1, but
 * the children in `spared`, which may be NULL. Returns after some seconds even if a process is
 * left, since a process may hang in the kernel. */
void kill_descendants(const struct children *spared);

/* Reaps all children except those in `spared`, and waits for them at most `timeout`
 * milliseconds. */
void reap_descendants(const struct children *spared, int timeout);

/* The list of this process's children, if it has a single thread. */
#define CHILDREN "/proc/thread-self/children"

/* ---- sandbox_limits.c: the limits that a sandbox sees ---------------------------------------- */

/* Calls un_show_limits() with a file in `directory`, and mounts the tmpfs for the root filesystem's
 * writes on its subdirectory "disk", if that is limited. Returns 0, or -1. */
int sandbox_show_limits(const char *directory, const struct un_limits *limits, bool shares_mounts,
                        struct un_error *err);

/* ---- proof.c: checking that the kernel is gVisor's ------------------------------------------- */

/* Message if the kernel is not gVisor's. */
#define UN_NOT_PROVEN                                                                              \
    "not started: this kernel is not gVisor's (gVisor's build date or boot message is missing), "  \
    "so the program called runsc created no sandbox"

/* Option of usernsctl-verify for health checks, and the time that it gives the payload. */
#define UN_HEALTH_OPTION "--health"
#define UN_HEALTH_SECONDS 10

/* Returns whether the kernel is gVisor's. Uses system calls only, so that neither a mounted /proc
 * nor a file can fake the result. */
bool un_runs_on_gvisor(void);

#endif
