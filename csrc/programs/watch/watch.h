/* The parts of usernsctl-watch. Internal. */
#ifndef USERNSCTL_PROGRAMS_WATCH_H
#define USERNSCTL_PROGRAMS_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

/* Indexes in watch_args.files: the paths of runsc's error log, crash report, debug log, and
 * bundle. */
enum { ERRORS, CRASH, DEBUG, BUNDLE, FILES };

/*
 * Prints to standard error why runsc has failed with the exit status `status`. Prints nothing if
 * runsc's log shows a normal exit, because `status` then is the exit status of the command. `limit`
 * is the cause id of a limit that was exceeded while runsc ran, or "". Returns the exit status of
 * the watcher.
 */
int explain_runsc(char *const *files, int status, const char *limit);

/* Records that this process, the child that executes runsc, has reported the failure of execve(2),
 * so that explain_runsc() in the watcher prints nothing. */
void mark_reported(char *const *files);

/* ---- start_limit.c: the time limit for a sandbox's start ------------------------------------- */

/* The default and maximum time limit in seconds. The default is many times longer than a start
 * takes on a slow machine. */
#define START_SECONDS 120
#define START_SECONDS_MAX 1000000

struct start_limit {
    uint32_t seconds; /* time limit in seconds, or 0 for no limit */
    int64_t until; /* deadline in ms (un_now_ms()), or 0 if there is no deadline or it has passed */
    bool is_over;  /* whether the deadline has passed before the sandbox started */
};

void start_limit_begin(struct start_limit *limit);
/* Checks whether the deadline has passed before the sandbox started. `command` is the command line
 * of `runsc run`. */
bool start_limit_is_over(struct start_limit *limit, char *const *command);
/* Returns the time until the deadline in milliseconds, or -1 if there is no deadline or it has
 * passed. */
int start_limit_interval(const struct start_limit *limit);

/* ---- pump.c: limiting the output ------------------------------------------------------------- */

/* The maximum value of pump.limit in bytes. The pump keeps at most that many bytes of standard
 * output and of standard error in memory. */
#define MAX_OUTPUT_MAX (1U << 30)

struct pump {
    uint64_t limit; /* maximum bytes of standard output and of standard error; 0 for no pump */
    bool kills;     /* whether the watcher kills a sandbox that writes more than the limit */
    pid_t pid;      /* pid of the pump, or 0 if there is none */
    int pidfd;
    int input[2];    /* write ends of the pipes for the sandbox's standard output and error */
    uint64_t *total; /* numbers of bytes that the sandbox has written to standard output and error,
                        in memory shared with the pump */
};

/* Parses the value of --max-output, BYTES[,kill]. Returns false if `text` is malformed. */
bool pump_parse(const char *text, struct pump *pump);
/* Starts the pump, a process that exits after the sandbox has closed standard output and error.
 * Returns 0, or -1 with the error in `err`. */
int pump_start(struct pump *pump, struct un_error *err);
/* Makes the pipes the standard output and error of this process, the child that executes runsc.
 * Returns 0, or -1 with errno set. */
int pump_join(const struct pump *pump);
/* Waits until the pump has written all output. Stops waiting after a signal (keep_early_signals()).
 * If `is_given_up` is set, because the watcher has killed the sandbox or a signal came too late for
 * the command, stops waiting after 5 s. The rest of the output is lost then. */
void pump_wait(struct pump *pump, bool is_given_up);
/* Returns the number of bytes that the pump has dropped from standard output (0) or error (1). */
uint64_t pump_truncated(const struct pump *pump, int stream);
/* Checks whether the sandbox must be killed because its output exceeds the limit, and if so
 * describes that in `end`. */
bool pump_is_over(const struct pump *pump, struct un_end *end);
/* Prints a notice for standard output and for standard error if the pump has dropped bytes. */
void pump_report(const struct pump *pump);

/* ---- result.c: the file for the result ------------------------------------------------------- */

struct result_file {
    int directory, fd; /* descriptors of the file's directory and of the file; the child does not
                          inherit them */
    char temporary[64];
    const char *name; /* final name of the file, or NULL if no result is requested */
    int denied; /* descriptor of a file that begins with the number of connections that the proxy
                   has denied, or -1 */
};

/* The result of a command, with the members of usernsctl.Result. */
struct watch_result {
    int status;           /* the exit status of the watcher */
    int signal;           /* the signal that killed the command, or 0 */
    const char *reason;   /* why the command has ended, such as "exited" */
    uint64_t limit, used; /* the exceeded limit, and the usage, as in struct un_end */
    uint64_t peak;        /* peak memory usage in bytes; 0 if unknown */
    uint64_t truncated[2];
    struct rusage before; /* usage of children that were reaped before this program was executed */
};

/* Parses the value of --result, DIRECTORY,FD,TEMPORARY,NAME. Returns false if `text` is
 * malformed. */
bool result_parse(const char *text, struct result_file *file);
/* Parses the number of the descriptor for file->denied. Returns false if `text` is malformed. */
bool result_parse_denied(const char *text, struct result_file *file);
/* Writes the result to the file, and gives the file its final name. Does nothing if no result is
 * requested. Returns 0, or -1 after reporting a failure. */
int result_write(const struct result_file *file, const struct watch_result *result);

/* ---- arguments.c ----------------------------------------------------------------------------- */

/* The maximum number of arguments of KILL and of RAISE. */
#define KILL_MAX 32

/* Parsed arguments, and the state of the watcher. Each array of arguments is terminated by NULL. */
struct watch_args {
    const char *program;
    char **files;
    char **kill;
    char **raise;
    char **command;
    int early; /* signal that could not be delivered before the start of the command, and was
                  replaced by a SIGTERM to runsc; or 0 */
    bool has_terminal;   /* whether the command has a terminal */
    bool reraise_signal; /* whether the watcher must kill itself by the signal that killed the
                            command */
    bool signalled;      /* whether a forwarded signal may have killed runsc itself */
    int64_t undelivered; /* time (un_now_ms()) of the last terminating signal if that could not be
                            delivered to the command; otherwise 0 */
    struct start_limit start;
    struct un_limits limits;
    struct sandbox_group group;
    struct limit_watch watch;
    struct oom_watch oom;
    struct children spared; /* children that do not belong to the sandbox */
    int network;            /* pidfd of usernsctl-network, or -1 */
    struct un_end end;      /* why the watcher has ended the sandbox */
    struct pump pump;
    struct result_file result_file;
    struct watch_result result;
};

/* Parses the arguments of usernsctl-watch, and splits them at the first three "--". Returns false
 * if they are invalid. */
bool split_watch_args(int argc, char **argv, struct watch_args *args);

/* Performs a health check: checks whether the sandbox of this container answers, and runs
 * `command`, which is terminated by NULL, in the sandbox. Returns the exit status of the health
 * check, which is 0 if the sandbox is healthy, otherwise 1. */
int check_health(char *const *command);

#endif
