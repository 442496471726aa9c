/* Declarations that the source files of usernsctl-exec share. Internal to usernsctl. */
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
    /* CLONE_NEW... flags of the namespaces to create, apart from the user namespace */
    uint64_t flags;
    bool fork;
    /* whether usernsctl-exec must kill itself with the signal that killed the command */
    bool reraise_signal;
    /* whether usernsctl-exec stays as PID 1 of the new PID namespace and parent of the command */
    bool init;
    /* socket to the process that requests namespaces (un_hold()), or -1 to run a command */
    int hold;
    int kill_child; /* signal that the kernel sends to the child if usernsctl-exec dies */
    /* propagation of mounts: MS_PRIVATE, MS_SLAVE or MS_SHARED, or 0 to leave it unchanged */
    unsigned long propagation;
    struct un_setup setup;
    /* descriptors that the command inherits, sorted and without duplicates */
    int keep[UN_KEEP_MAX];
    size_t keep_count;
    const char *launch;         /* path of the launch file to perform, or NULL */
    const char *run_as;         /* USER[:GROUP] to run the launch file's command as, or NULL */
    bool check;                 /* whether to perform a launch only up to its final execve(2) */
    bool log_json;              /* whether to print messages in JSON */
    const char *const *command; /* the command and its arguments, terminated by NULL */
};

/* Parses the command line up to the first argument that is not an option, because later options
 * belong to the command. Returns 0, or -1 with the error in `err`. */
int un_options_parse(int argc, char **argv, struct un_options *options, struct un_error *err);
/* The text of usernsctl-exec --help. */
extern const char un_options_help[];

/* ---- identity.c: the uid and gid of the command ---------------------------------------------- */

/* Sets setup->uid and setup->gid to the ids of the command in the user namespace, unless options
 * have set them. `alike` must be set if the real, effective and saved ids of this process are
 * equal. */
void un_take_identity(const struct un_plan *plan, const struct un_facts *facts, bool alike,
                      struct un_setup *setup);

/* ---- enter.c: planning id maps, and entering new namespaces ---------------------------------- */

/* Plans the id maps for a request. `path` is a colon-separated list of directories to search for
 * newuidmap and newgidmap, or NULL for the system's directories. Returns 0, or -1 with the error in
 * `err`. */
int un_exec_plan(const struct un_request *request, const char *path, struct decision *decision,
                 struct un_error *err);
/* Moves this process into new namespaces with the planned id maps, and stores the command's ids in
 * `setup`. Processes in the namespaces can access the descriptors of this process, so the caller
 * must first close all descriptors that those processes must not obtain. Returns 0, or -1 with the
 * error in `err`. */
int un_exec_enter(const struct decision *decision, uint64_t flags, struct un_setup *setup,
                  struct un_error *err);

/* ---- hold.c: keeping namespaces alive for other processes ------------------------------------ */

/* Process name (PR_SET_NAME(2const)) of a holder, a process that keeps namespaces alive, after its
 * creator has answered the message "ready" (un_hold()). */
#define UN_HOLDER_NAME "usernsctl-hold"

/*
 * Forks a holder, a process that keeps alive the namespaces that this process has entered. Returns
 * 0, or -1 with the error in `err` if no holder remains.
 *
 * options->hold is a SOCK_SEQPACKET socket to the creator, the process that requested the
 * namespaces. If options->command is not empty, it is the command line of usernsctl-network, which
 * creates a network for the holder (shared.h, network_join()). When usernsctl-network exits, the
 * holder exits. When the holder exits, usernsctl-network exits.
 *
 * This process sends "pid N" over the socket. The holder sends "ready" with descriptors of all its
 * namespaces, in the order of enum un_ns, or an error (un_hold_report()). When the creator answers
 * with a byte, the holder sets its process name, and becomes dumpable, so that other processes can
 * open its namespaces in /proc. Other processes can then also read the holder's memory (see
 * un_forget_environment()) and use its descriptors, of which only the socket and a pidfd of the
 * network remain open. The holder then closes the socket. A holder that can't become dumpable sends
 * an error and exits.
 *
 * If the creator closes the socket without an answer, the holder exits, so that the creator knows
 * of every holder that runs.
 */
int un_hold(const struct un_options *options, struct un_error *err);
/* Overwrites the environment of this program except PATH. The holder inherits this memory, which
 * other processes will be able to read. */
void un_forget_environment(char **environment);
/* Sends `err` over `socket`: "error STEP ERRNO CAUSE DETAIL", a NUL, and the remedy, which may be
 * empty. CAUSE is "-" if the cause is unknown. */
void un_hold_report(int socket, const struct un_error *err);

/* ---- host_homes.c: the caller's home directories, which are hidden from sandboxes ------------ */

#define UN_HOMES_MAX 4

struct un_homes {
    /* absolute paths of the home directories, terminated by NULL */
    const char *list[UN_HOMES_MAX + 1];
    char path[UN_HOMES_MAX][UN_PATH_MAX];
    size_t count;
};

/* Finds the caller's home directories: `home`, the value of HOME or NULL, and the home directory in
 * the user database. Stores their absolute paths, and the same paths with symbolic links resolved.
 * Must be called before this process enters a user namespace, in which its uid is different. */
void un_homes_find(struct un_homes *homes, const char *home);
/* Returns the home directory in `line`, a line of /etc/passwd (passwd(5)). Modifies `line`. Returns
 * NULL if the line is malformed or was truncated. */
char *un_home_of(char *line);

/* ---- state.c: usernsctl's own directories, which are hidden from sandboxes ------------------- */

/* Stores the path of usernsctl's state directory in `path`. The path depends on environment
 * variables, by the same rules as in usernsctl/_system/records.py. The directory need not exist.
 * Returns 0, or -1 with errno set. */
int un_state_directory(char **environment, char path[UN_PATH_MAX]);
/* Stores the path of the directory of templates (saved checkpoints) in `path`. The path depends on
 * XDG_DATA_HOME or HOME, and is "" if the caller has no home directory and therefore no templates.
 * Returns 0, or -1 with errno set. */
int un_templates_directory(char **environment, char path[UN_PATH_MAX]);

/* ---- environment.c: the environment of a launch's command ------------------------------------ */

/* Builds the environment of the command from the launch's records and the caller's environment.
 * Stores a NULL-terminated array in *envp, which the caller must free, even after a failure.
 * Returns 0, or -1 with the error in `err`. */
int un_environment_make(const struct un_launch *launch, char **environment, const char ***envp,
                        struct un_error *err);

/* Returns the value of the environment variable `name`, or NULL if it is not set. */
const char *un_environment_value(char **environment, const char *name);

/* ---- launch_params.c: parameters known only when a launch is performed ----------------------- */

/* The parameters of a launch (a start of a sandbox by a launch file), and the memory to which the
 * pointers in `base` refer. */
struct launch_params {
    struct un_launch_params base;
    const char **args;
    const char **env;
    uint32_t *groups;
    struct un_account_name user; /* user in the option --run-as */
    /* ids and groups of `user` in the sandbox; NULL if `user` consists of numbers only */
    struct un_account *account;
    struct un_homes homes;
    char cwd[UN_PATH_MAX];
    struct utsname host;
};

/* Collects the parameters of a launch, except for the user. `command` contains the arguments after
 * "--", which replace the launch's command. Must be called before this process enters the new
 * namespaces. The caller must call un_launch_params_free(), even after a failure. Returns 0, or -1
 * with the error in `err`. */
int un_launch_params_collect(const struct un_launch *launch, const char *const *command,
                             char **environment, struct launch_params *params,
                             struct un_error *err);
/* Sets the ids of the command to those in `run_as`, USER[:GROUP], or to those of the launch if
 * `run_as` is NULL. Names are looked up later, by un_launch_params_resolve(). Returns 0, or -1 with
 * the error in `err`. */
int un_launch_params_set_user(const struct un_launch *launch, const char *run_as,
                              struct launch_params *params, struct un_error *err);
/* Looks up the names in --run-as, and checks that `maps` contain their ids. Chooses the working
 * directory of the command, and checks that the directory and the command exist. Must be called
 * after the root filesystem was built. Returns 0, or -1 with the error in `err`. */
int un_launch_params_resolve(struct un_launch *launch, const struct un_idmap *maps,
                             struct launch_params *params, struct un_error *err);
void un_launch_params_free(struct launch_params *params);

/* ---- launch_file.c: reading the launch file -------------------------------------------------- */

struct un_launch_file {
    int fd;      /* descriptor of the file, or -1 before it is opened */
    char *bytes; /* contents of the file */
};

/* Parses the launch file `file`. Fails if any user other than root and the caller could have
 * written to the file or replaced it. The caller must close `of`, even after a failure, and only
 * after closing *launch. Returns 0, or -1 with the error in `err`. */
int un_launch_file_read(const char *file, struct un_launch_file *of, struct un_launch **launch,
                        struct un_error *err);
/* Prepends the path of the launch file to the detail of `err`. Returns -1. */
int un_launch_file_name(const char *file, struct un_error *err);
void un_launch_file_close(struct un_launch_file *of);

/* ---- volumes.c: warning about volumes that do not receive the command's writes --------------- */

/* Prints a warning if the sandbox contains volumes of this container that the caller may write to,
 * and if the command's writes to these volumes will be lost. The files in launch->source must be
 * open. */
void un_warn_of_volumes(const struct un_launch *launch);

/* ---- launch.c: usernsctl-exec --launch FILE -------------------------------------------------- */

/* Reads the launch file options->launch, and performs the launch with the command options->command.
 * On failure, reports the error to the user and returns the exit status. With options->check, stops
 * before the final execve(2), and returns 0 on success. */
int un_exec_launch(const struct un_options *options);

#endif
