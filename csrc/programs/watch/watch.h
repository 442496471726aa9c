/* Declarations that the source files of usernsctl-watch share. Internal to usernsctl. */
#ifndef USERNSCTL_PROGRAMS_WATCH_H
#define USERNSCTL_PROGRAMS_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

/* Indexes in watch_args.files: paths of runsc's error log, crash report and debug log, and of the
 * bundle. */
enum { ERRORS, CRASH, DEBUG, BUNDLE, FILES };

/* Minimum number of processes and threads that the start of a sandbox needs. */
#define SANDBOX_PROCESSES 25

/* Prints to standard error why runsc has failed. Prints nothing if runsc's log shows a normal exit,
 * because `status`, the exit status of runsc, is then the exit status of the command. `limit` is
 * the cause id of a limit that was exceeded while runsc ran, or "". Stores in *is_lost whether the
 * command has run, but a full disk kept runsc from logging the command's exit status. Returns the
 * exit status of the watcher. */
int explain_runsc(char *const *files, int status, const char *limit, bool *is_lost);

/* Records, in the child that executes runsc, that the child has reported its own failure, so that
 * explain_runsc() in the watcher reports no other error. */
void mark_reported(char *const *files);

/* ---- start_limit.c: the timeout for starting a sandbox --------------------------------------- */

/* Default timeout in seconds for starting a sandbox, many times longer than a start takes on a slow
 * host. */
#define START_SECONDS 120
/* Maximum of the timeout in seconds for starting a sandbox. */
#define START_SECONDS_MAX 1000000

struct start_limit {
    uint32_t seconds; /* timeout in seconds, or 0 for none */
    int64_t until;    /* deadline in ms (un_now_ms()); 0 if there is none, or if it has passed */
    bool is_over;     /* whether the sandbox had not started at the deadline */
};

void start_limit_begin(struct start_limit *limit);
/* Returns whether the deadline has passed and the sandbox has not started. `command` is the command
 * line of `runsc run`. */
bool start_limit_is_over(struct start_limit *limit, char *const *command);
/* Returns the time in ms until the deadline, or -1 if there is no deadline, or if the deadline has
 * passed. */
int start_limit_interval(const struct start_limit *limit);

/* ---- pump.c: limiting the output of the sandbox ---------------------------------------------- */

/* Maximum of the limit that --max-output sets, in bytes. The pump, the process that copies the
 * output, keeps at most half of the limit in memory, for standard output and for standard error. */
#define MAX_OUTPUT_MAX (1U << 30)

struct pump {
    /* maximum number of bytes on standard output, and on standard error; 0 means no pump */
    uint64_t limit;
    bool kills; /* whether the watcher must kill a sandbox that exceeds the limit */
    pid_t pid;  /* pid of the pump, or 0 if there is no pump */
    int pidfd;
    /* write ends of the pipes that are the sandbox's standard output and standard error */
    int input[2];
    /* numbers of bytes that the sandbox has written to standard output and standard error, in
     * memory that is shared with the pump */
    uint64_t *total;
};

/* Parses the value of --max-output, BYTES[,kill]. Returns false if `text` is malformed. */
bool pump_parse(const char *text, struct pump *pump);
/* Starts the pump, which exits after the sandbox has closed standard output and standard error.
 * Returns 0, or -1 with the error in `err`. */
int pump_start(struct pump *pump, struct un_error *err);
/* Duplicates the write ends of the pipes to standard output and standard error of this process, the
 * child that executes runsc (dup2(2)). Returns 0, or -1 with errno set. */
int pump_join(const struct pump *pump);
/* Waits until the pump has written all output, or until a signal arrives (keep_early_signals()).
 * Waits at most 5 s if `is_given_up` is set, which means that the watcher has killed the sandbox,
 * or that a signal came too late for the command. Output that is not written by then is lost. */
void pump_wait(struct pump *pump, bool is_given_up);
/* Returns how many bytes the pump has dropped from standard output (`stream` 0) or standard error
 * (1). */
uint64_t pump_truncated(const struct pump *pump, int stream);
/* Returns whether the sandbox must be killed because its output exceeds the limit; if so, describes
 * the exceeded limit in `end`. */
bool pump_is_over(const struct pump *pump, struct un_end *end);
/* Prints how many bytes of standard output and of standard error the pump has dropped, if any. */
void pump_report(const struct pump *pump);

/* ---- result.c: writing the result of the command to a file ----------------------------------- */

struct result_file {
    /* descriptors of the file's directory and of the file; the child inherits neither */
    int directory, fd;
    char temporary[64];
    const char *name; /* final name of the file, or NULL if no result file was requested */
    /* descriptor of the network proxy's file that begins with the number of denied connections, or
     * -1 */
    int denied;
};

/* The result of a command, with the members of usernsctl.Result. */
struct watch_result {
    int status;           /* exit status of the watcher */
    int signal;           /* signal that killed the command, or 0 */
    const char *reason;   /* why the command has ended, such as "exited" */
    uint64_t limit, used; /* exceeded limit, and the usage, as in struct un_end */
    uint64_t peak;        /* peak memory usage in bytes; 0 if unknown */
    uint64_t truncated[2];
    struct rusage before; /* usage of children that were reaped before this program was executed */
};

/* Parses the value of --result, DIRECTORY,FD,TEMPORARY,NAME. Returns false if `text` is
 * malformed. */
bool result_parse(const char *text, struct result_file *file);
/* Parses the value of --denied, the number of a descriptor, and stores it in file->denied. Returns
 * false if `text` is malformed. */
bool result_parse_denied(const char *text, struct result_file *file);
/* Writes the result to the file, and gives the file its final name. Does nothing if no result file
 * is requested. Returns 0, or -1 after reporting the failure. */
int result_write(const struct result_file *file, const struct watch_result *result);

/* ---- arguments.c: the command line of usernsctl-watch ---------------------------------------- */

/* Maximum number of elements of the argument vectors of KILL and RAISE, including the signal number
 * and a NULL. */
#define KILL_MAX 32

/* The parsed arguments and the state of the watcher. Each array of arguments is terminated by
 * NULL. */
struct watch_args {
    const char *program;
    char **files;
    char **kill;
    char **raise;
    char **command;
    /* signal that arrived before the start of the command, and that the watcher has replaced by a
     * SIGTERM to runsc; 0 if there is none */
    int early;
    bool has_terminal; /* whether the command has a terminal */
    /* whether the watcher must kill itself with the signal that killed the command */
    bool reraise_signal;
    bool signalled; /* whether runsc itself may have been killed by a forwarded signal */
    /* time (un_now_ms()) of the last terminating signal if it could not be delivered to the
     * command, otherwise 0 */
    int64_t undelivered;
    struct start_limit start;
    struct un_limits limits;
    struct sandbox_group group;
    struct limit_watch watch;
    struct oom_watch oom;
    struct children spared; /* children that do not belong to the sandbox */
    int network;            /* pidfd of usernsctl-network, or -1 */
    struct un_end end;      /* why the watcher has killed the sandbox, if it has */
    struct pump pump;
    struct result_file result_file;
    struct watch_result result;
};

/* Parses the arguments of usernsctl-watch, split at the first three "--". Returns false if they are
 * invalid. */
bool split_watch_args(int argc, char **argv, struct watch_args *args);

/* Performs a health check: checks whether the sandbox of this container answers, and runs
 * `command`, which is terminated by NULL, in that sandbox. Returns the exit status: 0 if the
 * sandbox is healthy, otherwise 1. */
int check_health(char *const *command);

#endif
