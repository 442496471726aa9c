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
    uint64_t flags; /* CLONE_NEW... flags of the namespaces to create besides the user namespace */
    bool fork;
    bool reraise_signal; /* whether usernsctl-exec kills itself by the signal that has killed the
                            command */
    bool init; /* whether usernsctl-exec is PID 1 of the PID namespace, and the command its child */
    int hold;  /* socket for un_hold(), or -1 to run a command */
    int kill_child; /* signal that the kernel sends to the child when usernsctl-exec dies */
    unsigned long propagation; /* propagation of mounts: MS_PRIVATE, MS_SLAVE, MS_SHARED, or 0 for
                                  no change */
    struct un_setup setup;
    int keep[UN_KEEP_MAX]; /* descriptors that the command inherits, sorted, without duplicates */
    size_t keep_count;
    const char *launch; /* path of the launch file to perform, or NULL */
    const char *run_as; /* USER[:GROUP], with which the command of a launch file runs, or NULL */
    bool check;         /* whether to perform a launch without its final execve(2) */
    bool log_json;      /* whether to print messages in JSON */
    const char *const *command; /* arguments of the command, terminated by NULL */
};

/* Parses the command line. Stops at the first argument that is not an option, because options after
 * the command's name belong to the command. Returns 0, or -1 with the error in `err`. */
int un_options_parse(int argc, char **argv, struct un_options *options, struct un_error *err);
/* The text that --help prints. */
extern const char un_options_help[];

/* ---- identity.c: the ids of the command ------------------------------------------------------ */

/* Sets in `setup` the uid and gid that the command has in the user namespace, unless options have
 * set them. `alike` means that the real, effective and saved ids of this process are equal. */
void un_take_identity(const struct un_plan *plan, const struct un_facts *facts, bool alike,
                      struct un_setup *setup);

/* ---- enter.c: planning the namespaces, and entering them ------------------------------------- */

/* Plans the id maps for a request. `path` lists the directories to search for newuidmap and
 * newgidmap, separated by colons; NULL means the system's directories. Returns 0, or -1 with the
 * error in `err`. */
int un_exec_plan(const struct un_request *request, const char *path, struct decision *decision,
                 struct un_error *err);
/* Moves this process into new namespaces as planned, and sets the ids in `setup`. The caller must
 * first close all descriptors that processes in the namespaces must not obtain. Returns 0, or -1
 * with the error in `err`. */
int un_exec_enter(const struct decision *decision, uint64_t flags, struct un_setup *setup,
                  struct un_error *err);

/* ---- hold.c: holding namespaces for other processes ------------------------------------------ */

/* Process name of a holder that the creator has confirmed (PR_SET_NAME(2const)). */
#define UN_HOLDER_NAME "usernsctl-hold"

/* Forks a holder, a process that stays in the namespaces that this process has entered, and so
 * keeps them alive. Returns 0, or -1 with the error in `err` if there is no holder. `options->hold`
 * is a SOCK_SEQPACKET socket to the creator, the process that requested the namespaces. If
 * `options->command` is not empty, it is the command line of usernsctl-network, which creates a
 * network for the holder (shared.h, network_join()). The network ends when the holder exits, and
 * the holder exits when the network ends. This process sends "pid N". The holder sends "ready" with
 * descriptors of all its namespaces in the order of enum un_ns, or an error (un_hold_report()).
 * When the creator answers with a byte, the holder sets its name and becomes dumpable, so that
 * other processes may open its namespaces in /proc and read its memory, see
 * un_forget_environment(). At that time, the only descriptor of the holder besides the socket is a
 * pidfd of its network. The holder then closes the socket, and stays. If it can't become dumpable,
 * it sends an error, and exits. If the creator closes the socket without an answer, the holder
 * exits, so that no holder remains of which the creator does not know. */
int un_hold(const struct un_options *options, struct un_error *err);
/* Overwrites the environment of this program except PATH. Otherwise other processes could read the
 * caller's environment in the memory of the holder. */
void un_forget_environment(char **environment);
/* Sends "error STEP ERRNO CAUSE DETAIL", a NUL, and the remedy of the error, which may be empty. */
void un_hold_report(int socket, const struct un_error *err);

/* ---- host_homes.c: home directories of the caller, which sandboxes do not see ---------------- */

#define UN_HOMES_MAX 4

struct un_homes {
    const char *list[UN_HOMES_MAX + 1]; /* paths, terminated by NULL */
    char path[UN_HOMES_MAX][UN_PATH_MAX];
    size_t count;
};

/* Finds the caller's home directories. `home` is the value of HOME, or NULL; the other home
 * directory comes from the user database. Stores absolute paths, each also with symbolic links
 * resolved. To be called outside of the namespaces. */
void un_homes_find(struct un_homes *homes, const char *home);
/* Returns the home directory in `line`, a line of passwd(5), and modifies the line. Returns NULL if
 * the line has no home directory or was truncated. */
char *un_home_of(char *line);

/* ---- state.c: directories that sandboxes do not see ------------------------------------------ */

/*
 * Writes the path of the state directory to `path`, which depends on environment variables in the
 * same way as in usernsctl/_system/records.py. The directory need not exist. Returns 0, or -1 with
 * errno set.
 */
int un_state_directory(char **environment, char path[UN_PATH_MAX]);
/* Writes the path of the directory of templates to `path`, which depends on XDG_DATA_HOME or HOME.
 * The path is "" if the caller has no home directory, and so no templates. Returns 0, or -1 with
 * errno set. */
int un_templates_directory(char **environment, char path[UN_PATH_MAX]);

/* ---- environment.c: the environment of a launch's command ------------------------------------ */

/* Builds the environment of the command from the records of the launch and the caller's
 * environment. Stores an array terminated by NULL in *envp, which the caller must free even after a
 * failure. Returns 0, or -1 with the error in `err`. */
int un_environment_make(const struct un_launch *launch, char **environment, const char ***envp,
                        struct un_error *err);

/* Returns the value of the environment variable `name`, or NULL if it is not set. */
const char *un_environment_value(char **environment, const char *name);

/* ---- launch_params.c: parameters known only when a launch is performed ----------------------- */

/* Parameters of a launch (struct un_launch_params), with the memory to which the pointers in the
 * parameters refer. */
struct launch_params {
    struct un_launch_params base;
    const char **args;
    const char **env;
    uint32_t *groups;
    struct un_account_name user; /* user of the option --run-as */
    struct un_account
        *account; /* ids and groups of `user` in the sandbox; NULL if `user` contains no name */
    struct un_homes homes;
    char cwd[UN_PATH_MAX];
    struct utsname host;
};

/* Collects the parameters of the launch except for the user. To be called outside of the
 * namespaces. `command` contains the arguments after "--", which replace the command of the launch.
 * un_launch_params_free() must be called even after a failure. Returns 0, or -1 with the error in
 * `err`. */
int un_launch_params_collect(const struct un_launch *launch, const char *const *command,
                             char **environment, struct launch_params *params,
                             struct un_error *err);
/* Sets the ids of the command to the ids in `run_as`, USER[:GROUP], or to the ids of the launch if
 * `run_as` is NULL. un_launch_params_resolve() looks up names later. Returns 0, or -1 with the
 * error in `err`. */
int un_launch_params_set_user(const struct un_launch *launch, const char *run_as,
                              struct launch_params *params, struct un_error *err);
/* Looks up the names of the command's user, checks that `maps` contain the ids, chooses the working
 * directory of the command, and checks that the directory and the command exist. To be called after
 * the root filesystem was built. Returns 0, or -1 with the error in `err`. */
int un_launch_params_resolve(struct un_launch *launch, const struct un_idmap *maps,
                             struct launch_params *params, struct un_error *err);
void un_launch_params_free(struct launch_params *params);

/* ---- launch_file.c: the file of a launch ----------------------------------------------------- */

struct un_launch_file {
    int fd;      /* descriptor of the file, or -1 before it is opened */
    char *bytes; /* contents of the file */
};

/* Reads a launch from a file. Fails if other users than root and the caller may have written or
 * replaced the file. The file must be closed even after a failure, and only after the launch was
 * closed. Returns 0, or -1 with the error in `err`. */
int un_launch_file_read(const char *file, struct un_launch_file *of, struct un_launch **launch,
                        struct un_error *err);
/* Prepends the name of the launch file to the error in `err`. Returns -1. */
int un_launch_file_name(const char *file, struct un_error *err);
void un_launch_file_close(struct un_launch_file *of);

/* ---- volumes.c: volumes of a container whose changes are lost -------------------------------- */

/* Prints a warning if the command sees volumes to which the user of this process may write, but
 * whose changes by the command are lost. The sources of the launch must be open. */
void un_warn_of_volumes(const struct un_launch *launch);

/* ---- launch.c: usernsctl-exec --launch FILE -------------------------------------------------- */

/* Reads the launch file options->launch, and performs the launch with options->command. With
 * options->check, omits the final execve(2), and returns 0 on success. Otherwise returns only after
 * a failure. Reports a failure to the user, and returns the exit status. */
int un_exec_launch(const struct un_options *options);

#endif
