/* The parts of usernsctl-exec. Internal. */
#ifndef USERNSCTL_PROGRAMS_EXEC_EXEC_H
#define USERNSCTL_PROGRAMS_EXEC_EXEC_H

#include "launch/launch.h"

#include <sys/utsname.h>

/* ---- options.c: the command line of usernsctl-exec ------------------------------------------- */

#define UN_KEEP_MAX 64

struct un_options {
    enum { UN_RUN, UN_HELP, UN_VERSION } action;
    bool user; /* a user namespace was asked for, or follows from what was */
    struct un_request request;
    uint64_t flags; /* CLONE_NEW... of the other namespaces */
    bool fork;
    bool reraise_signal; /* whether to end by the signal that killed the command */
    bool init;           /* the command is not process 1 of its PID namespace: we are */
    int hold;            /* where to report to that the namespaces are held; -1: run a command */
    int kill_child;      /* the signal for a child that outlives us */
    unsigned long propagation; /* MS_PRIVATE, MS_SLAVE, MS_SHARED, or 0: unchanged */
    struct un_setup setup;
    int keep[UN_KEEP_MAX]; /* descriptors to pass on: sorted, without doubles */
    size_t keep_count;
    const char *launch;         /* the file of a launch to be performed, or NULL */
    bool check;                 /* whether to perform it but for its last step */
    const char *const *command; /* ends with NULL */
};

/* Reads the command line; argv is permuted by no option, for the command's own are not ours. */
int un_options_parse(int argc, char **argv, struct un_options *options, struct un_error *err);
/* The text of --help. */
extern const char un_options_help[];

/* ---- identity.c: who the command is run as --------------------------------------------------- */

/* Completes what the options say: who we become inside. `alike`: whether our real, effective and
 * saved ids are the same. */
void un_take_identity(const struct un_plan *plan, const struct un_facts *facts, bool alike,
                      struct un_setup *setup);

/* ---- enter.c: deciding on the namespaces, and moving into them ------------------------------- */

/* What is planned, and of what: more than a small stack holds. */
struct decision {
    struct un_facts facts;
    struct un_plan plan;
};

/* Plans what is asked for. `path` is where helpers are looked for, directories separated by colons;
 * NULL: where the system has its programs. */
int un_exec_plan(const struct un_request *request, const char *path, struct decision *decision,
                 struct un_error *err);
/* Moves this process into new namespaces, as planned, and has `setup` become who is planned unless
 * it says so itself. Descriptors that nobody inside may take are to be closed before. */
int un_exec_enter(const struct decision *decision, uint64_t flags, struct un_setup *setup,
                  struct un_error *err);

/* ---- hold.c: holding a namespace for others -------------------------------------------------- */

/* What the kernel calls a holder that has been told to stay (PR_SET_NAME(2const)). */
#define UN_HOLDER_NAME "usernsctl-hold"

/*
 * Leaves a process in the namespaces that this one has entered, and returns; -1 if there is none.
 *
 * `socket` is a SOCK_SEQPACKET connection to whoever wants the namespaces. It gets "pid N" from us,
 * and from the holder "ready", with descriptors of all its namespaces in the order of enum un_ns,
 * or what un_hold_report() writes. Once it has got a byte back, the holder takes its name, closes
 * the connection, and stays; only then, with no descriptor left, others may open its namespaces in
 * /proc, and look into its memory, see un_forget_environment(). If the connection is closed before,
 * it ends: no holder is left that nobody knows of.
 */
int un_hold(int socket, const struct un_setup *setup, struct un_error *err);
/* Overwrites the environment that this program was started with, but for PATH: it is the caller's,
 * and would be in the memory of the holder. */
void un_forget_environment(char **environment);
/* Sends "error STEP ERRNO CAUSE DETAIL", a NUL, and what mends it here, or nothing. */
void un_hold_report(int socket, const struct un_error *err);

/* ---- host_homes.c: the caller's homes, which stay hidden ------------------------------------- */

#define UN_HOMES_MAX 4

struct un_homes {
    const char *list[UN_HOMES_MAX + 1]; /* ends with NULL */
    char path[UN_HOMES_MAX][UN_PATH_MAX];
    size_t count;
};

/* Finds them: by HOME, which may be NULL, and by the user database, as absolute paths; where links
 * lead elsewhere, those, too. To be called outside of the namespaces. */
void un_homes_find(struct un_homes *homes, const char *home);
/* Returns the home in a line of passwd(5), which is cut there; NULL: the line has none, or was cut.
 */
char *un_home_of(char *line);

/* ---- state.c: the directories that usernsctl keeps from sandboxes ---------------------------- */

/*
 * Each finds the path of a directory, which need not be there, by the variables of an environment,
 * by the same rule as the function of that name in usernsctl/_system/records.py. -1 with errno.
 */
int un_state_directory(char **environment, char path[UN_PATH_MAX]);
/* The path is "" where the caller has no home, and so no templates. */
int un_templates_directory(char **environment, char path[UN_PATH_MAX]);

/* ---- environment.c: the environment of a command in a launch --------------------------------- */

/* What a launch asks for, of the caller's environment and its own: *made ends with NULL, and is to
 * be freed in any case. */
int un_environment_make(const struct un_launch *launch, char **environment, const char ***made,
                        struct un_error *err);

/* Returns the value of a variable, or NULL. */
const char *un_environment_value(char **environment, const char *name);

/* ---- moment.c: what is known only when a launch is performed --------------------------------- */

/* A moment, and the memory that it lies in. */
struct moment {
    struct un_moment is;
    const char **args;
    const char **env;
    struct un_homes homes;
    char cwd[UN_PATH_MAX];
    struct utsname host;
};

/* Takes it from the caller: outside of the namespaces. `command` are the words after --, which take
 * the place of the launch's own. What was taken is to be dropped in any case. */
int un_moment_take(const struct un_launch *launch, const char *const *command, char **environment,
                   struct moment *moment, struct un_error *err);
/* Decides where the command starts, once the root filesystem is made, and sees that it is there. */
int un_moment_settle(struct un_launch *launch, struct moment *moment, struct un_error *err);
void un_moment_drop(struct moment *moment);

/* ---- launch_file.c: the file that a launch is kept in ---------------------------------------- */

struct un_launch_file {
    int fd;      /* -1: not opened */
    char *bytes; /* what is in it */
};

/* Reads a launch from a file that nobody but root and the caller can have written, or put there.
 * It is to be closed in any case, once the launch is. */
int un_launch_file_read(const char *file, struct un_launch_file *of, struct un_launch **launch,
                        struct un_error *err);
/* Has a failure say which file it is about: that is not known where a launch is read. Returns -1.
 */
int un_launch_file_name(const char *file, struct un_error *err);
void un_launch_file_close(struct un_launch_file *of);

/* ---- launch.c: usernsctl-exec --launch FILE -------------------------------------------------- */

/* Performs the launch in a file, with the words that came with it. Returns only if that failed, and
 * it was said why: the exit status. To check is to do all but the last step, the exec: 0 if that is
 * all that there is left to do. */
int un_exec_launch(const struct un_options *options);

#endif
