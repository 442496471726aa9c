/* The parts of usernsctl-watch. Internal. */
#ifndef USERNSCTL_PROGRAMS_WATCH_H
#define USERNSCTL_PROGRAMS_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

/* Files in the arguments: paths of runsc's error log, crash report and debug log, and of the
 * bundle. */
enum { ERRORS, CRASH, DEBUG, BUNDLE, FILES };

/*
 * Reports on standard error why runsc failed with `status`. Prints nothing if runsc's log shows a
 * normal exit, so that the status is the command's. `limit` is the id of the cause of a limit that
 * was exceeded meanwhile, or "". Returns the exit status of the watcher.
 */
int explain_runsc(char *const *files, int status, const char *limit);

/* Called in the child if runsc can't be executed, which the child reports itself: explain_runsc()
 * in the watcher then prints nothing. */
void mark_reported(char *const *files);

/* ---- start_limit.c: the time limit of a sandbox's start -------------------------------------- */

/* The default limit, in seconds: many times what a start takes on a slow machine. */
#define START_SECONDS 120
#define START_SECONDS_MAX 1000000

struct start_limit {
    uint32_t seconds; /* 0 for no limit */
    int64_t until;    /* the deadline on the clock of un_now_ms(), or 0 if there is none (left) */
    bool is_over;     /* whether the sandbox had not started at the deadline */
};

void start_limit_begin(struct start_limit *limit);
/* Returns whether the deadline is over, and the sandbox of `command`, a `runsc run`, has not
 * started. */
bool start_limit_is_over(struct start_limit *limit, char *const *command);
/* Returns the time until the deadline in milliseconds, or -1 if there is none (left). */
int start_limit_interval(const struct start_limit *limit);

/* ---- pump.c: the limit of the output --------------------------------------------------------- */

/* The greatest limit, in bytes: the pump keeps so many of each stream in memory. */
#define MAX_OUTPUT_MAX (1U << 30)

struct pump {
    uint64_t limit; /* bytes of each stream; 0 for no pump */
    bool kills;     /* whether the watcher ends a sandbox that writes more */
    pid_t pid;      /* 0 for no pump */
    int pidfd;
    int input[2];    /* pipes for standard output and error of the sandbox */
    uint64_t *total; /* bytes that each stream has had, in memory that the pump writes to */
};

/* Parses BYTES[,kill]. Returns false if `text` is malformed. */
bool pump_parse(const char *text, struct pump *pump);
/* Starts the pump, which ends after the sandbox has closed both streams. */
int pump_start(struct pump *pump, struct un_error *err);
/* Called in the child that executes runsc: makes the pipes its standard output and error. Returns
 * 0, or -1 with errno. */
int pump_join(const struct pump *pump);
/* Waits until the pump has written all output. A signal that is pending (keep_early_signals()) ends
 * the wait, and so does a reader who takes longer than 5 s after the watcher has killed the
 * sandbox, or after a signal that came too late for the command (`is_given_up`). The rest of the
 * output is lost then. */
void pump_wait(struct pump *pump, bool is_given_up);
/* Returns the number of bytes that standard output (0) or error (1) lacks. */
uint64_t pump_truncated(const struct pump *pump, int stream);
/* Returns whether the sandbox has written more than it may, which `end` then describes. */
bool pump_is_over(const struct pump *pump, struct un_end *end);
/* Prints a notice for each stream that lacks bytes. */
void pump_report(const struct pump *pump);

/* ---- result.c: the file for the result ------------------------------------------------------- */

struct result_file {
    int directory, fd; /* descriptors of the directory and of the file, which the child closes */
    char temporary[64];
    const char *name; /* NULL for no file */
    int denied;       /* descriptor of a file that begins with the number of refusals, or -1 */
};

/* Why and how a command has ended, see usernsctl.Result. */
struct watch_result {
    int status;           /* the exit status of the watcher */
    int signal;           /* the signal that killed the command, or 0 */
    const char *reason;   /* such as "exited" */
    uint64_t limit, used; /* as in struct un_end */
    uint64_t peak;        /* the greatest memory use that was seen, in bytes; 0 if unknown */
    uint64_t truncated[2];
    struct rusage before; /* of the children that were reaped before this program was executed */
};

/* Parses DIRECTORY,FD,TEMPORARY,NAME. Returns false if `text` is malformed. */
bool result_parse(const char *text, struct result_file *file);
/* Parses the descriptor of the number of refusals. Returns false if `text` is malformed. */
bool result_parse_denied(const char *text, struct result_file *file);
/* Writes the result and gives the file its name. Does nothing without a file. Returns -1 after a
 * failure, which has been reported. */
int result_write(const struct result_file *file, const struct watch_result *result);

/* ---- arguments.c ----------------------------------------------------------------------------- */

/* The maximum number of words of each command but the last. */
#define KILL_MAX 32

/* Parsed arguments: the executable, runsc's files, and the commands, each terminated by NULL. */
struct watch_args {
    const char *program;
    char **files;
    char **kill;
    char **raise;
    char **command;
    int early;           /* signal in whose place SIGTERM was sent to runsc, or 0 */
    bool has_terminal;   /* whether the command has a terminal */
    bool reraise_signal; /* whether to die by the signal that killed the command */
    bool signalled;      /* whether a forwarded signal may have killed runsc itself */
    int64_t undelivered; /* when the last terminating signal came, of un_now_ms(), if it could not
                            be delivered to the command; otherwise 0 */
    struct start_limit start;
    struct un_limits limits;
    struct sandbox_group group;
    struct limit_watch watch;
    struct oom_watch oom;
    struct children spared; /* children that are not of the sandbox */
    int network;            /* pidfd of usernsctl-network, or -1 */
    struct un_end end;      /* why the watcher has ended the sandbox */
    struct pump pump;
    struct result_file result_file;
    struct watch_result result;
};

/* Parses the arguments of the program: splits argv at its first three "--". Returns false if they
 * are invalid. */
bool split_watch_args(int argc, char **argv, struct watch_args *args);

/* Checks whether the sandbox of this container answers, and runs `command`, which ends with NULL,
 * there. Returns the exit status of a health check: 0 if the sandbox is healthy, otherwise 1. */
int check_health(char *const *command);

#endif
