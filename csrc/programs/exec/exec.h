/* The parts of usernsctl-exec. Internal. */
#ifndef USERNSCTL_PROGRAMS_EXEC_EXEC_H
#define USERNSCTL_PROGRAMS_EXEC_EXEC_H

#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"

#include <sys/utsname.h>

/* ---- options.c: the command line of usernsctl-exec ------------------------------------------- */

#define UN_KEEP_MAX 64

struct un_options {
    enum { UN_RUN, UN_HELP, UN_VERSION } action;
    bool user; /* whether to create a user namespace */
    struct un_request request;
    uint64_t flags; /* CLONE_NEW... flags of the other namespaces */
    bool fork;
    bool reraise_signal; /* whether to die by the signal that killed the command */
    bool init; /* whether usernsctl-exec is process 1 of the PID namespace, above the command */
    int hold;  /* socket for reporting that the namespaces are held; -1 runs a command */
    int kill_child;            /* signal to the child at the death of usernsctl-exec */
    unsigned long propagation; /* MS_PRIVATE, MS_SLAVE, MS_SHARED, or 0 for no change */
    struct un_setup setup;
    int keep[UN_KEEP_MAX]; /* descriptors to pass on, sorted, without duplicates */
    size_t keep_count;
    const char *launch;         /* file of a launch to perform, or NULL */
    const char *run_as;         /* user of the command of a launch, USER[:GROUP], or NULL */
    bool check;                 /* whether to omit the final execve(2) */
    bool log_json;              /* whether to print messages in JSON */
    const char *const *command; /* ends with NULL */
};

/* Parses the command line. Does not permute argv, because options after the command are the
 * command's. */
int un_options_parse(int argc, char **argv, struct un_options *options, struct un_error *err);
/* The text of --help. */
extern const char un_options_help[];

/* ---- identity.c: the ids of the command ------------------------------------------------------ */

/* Chooses the uid and gid of the command in the user namespace, unless the options set them.
 * `alike` says whether the real, effective and saved ids of this process are equal. */
void un_take_identity(const struct un_plan *plan, const struct un_facts *facts, bool alike,
                      struct un_setup *setup);

/* ---- enter.c: planning the namespaces, and entering them ------------------------------------- */

/* Plans a request. `path` lists the directories to search for helpers, separated by colons; NULL
 * means the system's directories. */
int un_exec_plan(const struct un_request *request, const char *path, struct decision *decision,
                 struct un_error *err);
/* Moves this process into new namespaces as planned, and completes the ids in `setup`. The caller
 * must first close all descriptors that processes inside must not get. */
int un_exec_enter(const struct decision *decision, uint64_t flags, struct un_setup *setup,
                  struct un_error *err);

/* ---- hold.c: holding namespaces for other processes ------------------------------------------ */

/* Name of a holder that stays (PR_SET_NAME(2const)). */
#define UN_HOLDER_NAME "usernsctl-hold"

/* Forks a holder, a process that stays in the namespaces which this process has entered. Returns 0,
 * or -1 if no holder stays.
 *
 * `options->hold` is a SOCK_SEQPACKET connection to the process that asked for the namespaces. If
 * `options->command` is not empty, it is the command of usernsctl-network, which makes a network
 * for the holder (shared.h, network_join()): the network ends with the holder, and the holder with
 * its network. This process sends "pid N"; the holder sends "ready" with descriptors of all its
 * namespaces in the order of enum un_ns, or the error that un_hold_report() writes. After a byte in
 * return, the holder sets its name and becomes dumpable, so that other processes may open its
 * namespaces in /proc and read its memory, see un_forget_environment(); by then, its only other
 * descriptor is a pidfd of its network. It then closes the connection, and stays; or it sends an
 * error as above, and exits. If the connection is closed without that byte, the holder exits, so
 * that no unknown holder is left.
 */
int un_hold(const struct un_options *options, struct un_error *err);
/* Overwrites the environment of this program except PATH. The environment is the caller's, and
 * would be readable in the memory of the holder. */
void un_forget_environment(char **environment);
/* Sends "error STEP ERRNO CAUSE DETAIL", a NUL, and the remedy for this failure, which may be
 * empty. */
void un_hold_report(int socket, const struct un_error *err);

/* ---- host_homes.c: home directories of the caller, which stay hidden ------------------------- */

#define UN_HOMES_MAX 4

struct un_homes {
    const char *list[UN_HOMES_MAX + 1]; /* ends with NULL */
    char path[UN_HOMES_MAX][UN_PATH_MAX];
    size_t count;
};

/* Finds the home directories from HOME, which may be NULL, and from the user database, as absolute
 * paths, each also with symbolic links resolved. To be called outside of the namespaces. */
void un_homes_find(struct un_homes *homes, const char *home);
/* Returns the home directory in a line of passwd(5), which is modified, or NULL if the line has
 * none or was truncated. */
char *un_home_of(char *line);

/* ---- state.c: directories that are hidden from sandboxes ------------------------------------- */

/*
 * Finds the state directory from environment variables, with the same rule as the function of this
 * name in usernsctl/_system/records.py. The directory need not exist. Returns -1 with errno.
 */
int un_state_directory(char **environment, char path[UN_PATH_MAX]);
/* Finds the directory of templates from XDG_DATA_HOME or HOME. The path is "" if the caller has no
 * home directory, and so no templates. Returns -1 with errno. */
int un_templates_directory(char **environment, char path[UN_PATH_MAX]);

/* ---- environment.c: the environment of a command in a launch --------------------------------- */

/* Builds the environment of the command from the records of the launch and the caller's
 * environment. *envp ends with NULL, and must be freed in any case. */
int un_environment_make(const struct un_launch *launch, char **environment, const char ***envp,
                        struct un_error *err);

/* Returns the value of a variable, or NULL. */
const char *un_environment_value(char **environment, const char *name);

/* ---- launch_params.c: parameters known only when a launch is performed ----------------------- */

/* A struct un_launch_params, and the memory that its pointers refer to. */
struct launch_params {
    struct un_launch_params base;
    const char **args;
    const char **env;
    uint32_t *groups;
    struct un_account_name user; /* the user of the options */
    struct un_account *account;  /* what `user` means in the sandbox; NULL if it has no name */
    struct un_homes homes;
    char cwd[UN_PATH_MAX];
    struct utsname host;
};

/* Collects the parameters that are known only now. To be called outside of the namespaces.
 * `command` holds the arguments after --, which replace the command of the launch.
 * un_launch_params_free() must be called in any case. */
int un_launch_params_collect(const struct un_launch *launch, const char *const *command,
                             char **environment, struct launch_params *params,
                             struct un_error *err);
/* Sets the ids of the command: those of `run_as`, USER[:GROUP], or those of the launch if it is
 * NULL. A name is found later, by un_launch_params_resolve(). */
int un_launch_params_set_user(const struct un_launch *launch, const char *run_as,
                              struct launch_params *params, struct un_error *err);
/* After the root filesystem is built: finds a user by name, checks that the ids can be had with
 * these maps, chooses the working directory of the command, and checks that the directory and the
 * command exist. */
int un_launch_params_resolve(struct un_launch *launch, const struct un_idmap *maps,
                             struct launch_params *params, struct un_error *err);
void un_launch_params_free(struct launch_params *params);

/* ---- launch_file.c: the file of a launch ----------------------------------------------------- */

struct un_launch_file {
    int fd;      /* -1 until the file is opened */
    char *bytes; /* contents of the file */
};

/* Reads a launch from a file that only root and the caller can have written or replaced. The file
 * must be closed in any case, after the launch. */
int un_launch_file_read(const char *file, struct un_launch_file *of, struct un_launch **launch,
                        struct un_error *err);
/* Prepends the file name to an error of parsing a launch. Returns -1. */
int un_launch_file_name(const char *file, struct un_error *err);
void un_launch_file_close(struct un_launch_file *of);

/* ---- volumes.c: volumes of a container whose changes are lost ------------------------------- */

/* Prints a warning if the command sees volumes to which this user, but not the command may write.
 * The sources of the launch must be open. */
void un_warn_of_volumes(const struct un_launch *launch);

/* ---- launch.c: usernsctl-exec --launch FILE -------------------------------------------------- */

/* Reads a launch file, and performs its launch, with the command of the options. Returns only after
 * a failure, which has been reported, with the exit status. With options->check, does everything
 * except the final exec, and returns 0 on success. */
int un_exec_launch(const struct un_options *options);

#endif
