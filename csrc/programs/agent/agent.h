/* The agent, which starts the commands of a sandbox. Internal. */
#ifndef USERNSCTL_PROGRAMS_AGENT_AGENT_H
#define USERNSCTL_PROGRAMS_AGENT_AGENT_H

#include "programs/agent/protocol.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- caps.c: capabilities of the agent and of commands --------------------------------------- */

struct agent_caps {
    uint64_t bounding;
};

/* Reads the bounding set of the caller. */
void agent_read_caps(struct agent_caps *caps);

/* Changes the caller's uid to one that no other process has, and keeps its capabilities, so that
 * only processes with CAP_KILL can signal the caller. Returns false, with the uid unchanged, if the
 * caller may not change its uid. */
bool agent_switch_to_unused_uid(void);

/* Sets the effective uid for the creation of files. The real uid, which determines the processes
 * that may signal this one, is unchanged. Returns the previous uid, for agent_restore_uid(). An
 * agent that may not change its uid keeps it; the start of the command then fails, in
 * change_ids(). */
uid_t agent_set_effective_uid(uid_t uid);
void agent_restore_uid(uid_t own);

/* Drops all capabilities but `wanted` from the bounding set, so that no program can regain them.
 * For a child of the agent, before its ids change. Returns -1 with errno. */
int agent_limit_caps(const struct agent_caps *caps, uint64_t wanted);

/* Sets the effective and permitted capabilities to `wanted`, and clears the inheritable ones. For a
 * child of the agent, after its ids have changed. Returns -1 with errno. */
int agent_set_caps(uint64_t wanted);

/* ---- entries.c: listing a directory without libc --------------------------------------------- */

/* Handles one directory entry. Returns whether to continue. */
typedef bool agent_take_entry(const char *name, void *arg);

/* Calls `take` for each entry of the directory `name` in `dir`, except "." and "..". Opens a
 * descriptor of its own, so that several processes may list the directory at the same time. Returns
 * whether the whole directory was listed; on failure errno is set. */
bool agent_each_entry(int dir, const char *name, agent_take_entry *take, void *arg);

/* ---- message.c: parsing the message of a command --------------------------------------------- */

/* Maximum numbers of groups (NGROUPS_MAX) and of resource limits (above RLIM_NLIMITS). */
#define AGENT_GROUPS_MAX 65536
#define AGENT_LIMITS_MAX 64

struct agent_message {
    struct agent_header header;
    const char *groups; /* array in the message, not aligned */
    const char *limits;
    const char *strings; /* the strings after the limits; empty with AGENT_STRINGS_APART */
    size_t strings_size;
};

/* The strings of a command, all within the bytes of the message. */
struct agent_strings {
    const char *cwd;
    const char *program; /* a path, or a name to search in PATH */
    const char **argv;
    const char **envp;
};

/* Parses the fixed parts of a message. Returns 0 or an errno: EPROTO if the message is malformed,
 * E2BIG if the strings are too long. */
int agent_read_message(const char *bytes, size_t size, struct agent_message *message);

/* Returns the number of pointers that agent_read_strings() stores. */
size_t agent_pointers(const struct agent_header *header);

/* Splits the strings of a message; `pointers` has room for agent_pointers(). Returns 0 or EPROTO.
 */
int agent_read_strings(const struct agent_header *header, const char *bytes, size_t size,
                       const char **pointers, struct agent_strings *strings);

void agent_read_limit(const struct agent_message *message, size_t number,
                      struct agent_limit *limit);
uint32_t agent_read_group(const struct agent_message *message, size_t number);

/* ---- wire.c: messages and descriptors from the host, and answers ----------------------------- */

/* The message of a command, as received. */
struct agent_request {
    size_t size;
    size_t fds; /* number of descriptors received; if more than AGENT_FDS, the surplus is closed */
    int fd[AGENT_FDS];
    int fault; /* errno if the message was truncated or descriptors were lost, otherwise 0 */
    char bytes[AGENT_MESSAGE_MAX];
};

/* Receives one message without blocking. Returns 1 for a message with the descriptors of a command,
 * 0 if the host has closed the socket, -1 if there is no message yet. A message without a socket
 * for the command is answered with an error. */
int agent_receive(int socket, struct agent_request *request);

struct agent_wait {
    int fd;     /* descriptor to wait for */
    int socket; /* socket of the command, at whose end the wait ends; -1 for none */
    int other;  /* if this descriptor becomes readable, `notify` is called once; or -1 */
    void (*notify)(void *arg);
    void *arg;
};

/* Waits until wait->fd is readable. Returns false if the host closes wait->socket first, or asks to
 * kill the command. */
bool agent_wait_while_wanted(const struct agent_wait *wait);

void agent_close_fds(struct agent_request *request);

/* Sends an answer without blocking. Returns false if the answer was not sent. */
bool agent_answer(int socket, const void *data, size_t size);
bool agent_answer_failure(int socket, int step, int errnum);

/* ---- block.c: memory of keepers -------------------------------------------------------------- */

/* Size and alignment of a stack. Each stack is in an aligned region that begins with the errno of
 * the process that runs on it, so that libc.c finds errno from any address on the stack. A block
 * consists of two regions. */
#define AGENT_STACK_SIZE (128 * 1024)
#define AGENT_BLOCK_SIZE (2 * AGENT_STACK_SIZE)

struct agent;

struct agent_block {
    int error; /* errno of the process on this stack */
    pid_t keeper;
    struct agent_block *next;
    struct agent *agent;
    struct agent_request request;
};

/* The free blocks, and those used by keepers. */
struct agent_blocks {
    struct agent_block *free;
    struct agent_block *used;
};

/* Returns a free block, which stays in the list, or NULL with errno. */
struct agent_block *agent_block_free(struct agent_blocks *blocks);
/* Marks the block that agent_block_free() returns as used by a keeper. */
void agent_block_use(struct agent_blocks *blocks, pid_t keeper);
/* Frees the block of a keeper that has exited. Returns the block, or NULL if the process was not a
 * keeper. */
struct agent_block *agent_block_leave(struct agent_blocks *blocks, pid_t keeper);
/* Returns whether a process is a keeper, that is, uses a block. */
bool agent_block_has(const struct agent_blocks *blocks, pid_t keeper);
/* Return the top of the stack of the keeper, and of its command. */
void *agent_block_stack(struct agent_block *block);
void *agent_block_command_stack(struct agent_block *block);

/* ---- idle.c: keepers that run further commands ----------------------------------------------- */

/*
 * One keeper at a time listens for the next command, even while it still keeps a command. If the
 * listener's own command has ended when the next message arrives, the listener runs the new command
 * itself, and no other process is involved. Otherwise a waiting keeper becomes the listener, or the
 * agent itself listens.
 */

/* Signal to a waiting keeper, which becomes the listener, or to the agent, if no keeper listens. */
#define AGENT_LISTEN_SIGNAL SIGUSR2

/* The maximum number of waiting keepers. */
#define AGENT_WAITING_MAX 3

/* Shared between the agent and all keepers; each field is changed by atomic operations. */
struct agent_idle {
    struct agent_block *listener;
    struct agent_block *waiting[AGENT_WAITING_MAX];
};

/* Makes the keeper of `block` the listener, or a waiting keeper. Returns false if AGENT_WAITING_MAX
 * keepers are already waiting. */
bool agent_idle_join(struct agent_idle *idle, struct agent_block *block);
bool agent_idle_listens(const struct agent_idle *idle, const struct agent_block *block);
/* Makes a waiting keeper the listener in place of `block`, or signals `agent` that no keeper
 * listens. */
void agent_idle_pass_on(struct agent_idle *idle, struct agent_block *block, pid_t agent);
/* Removes a keeper that has exited. Called by the agent. */
void agent_idle_forget(struct agent_idle *idle, struct agent_block *block);
/* Returns whether a keeper listens. */
bool agent_idle_any(const struct agent_idle *idle);

/* ---- agent: state of the agent that keepers read --------------------------------------------- */

/* Signal from a keeper that can't kill the processes of its command, for
 * agent_kill_while_stopped(). */
#define AGENT_HELP_SIGNAL SIGUSR1

struct agent_idle;

struct agent {
    pid_t pid;
    bool is_inside; /* whether this is a sandbox, so that all processes may be stopped for a moment
                     */
    int control;    /* socket to the host; end of file ends the agent and all commands */
    int proc;       /* see agent_open_proc() */
    uid_t uid;      /* uid of commands that are given no ids of their own */
    struct agent_caps caps;
    struct agent_idle *idle; /* NULL if each keeper runs one command only */
};

/* ---- load.c: loading all parts of a command's message ---------------------------------------- */

/* The maximum number of pointers that are stored without an allocation. */
#define AGENT_POINTERS_MIN 512

struct agent_loaded {
    struct agent_message message;
    struct agent_strings strings;
    gid_t *groups;
    const char *pointers[AGENT_POINTERS_MIN];
    /* Mapped memory, which agent_unload() unmaps. */
    struct {
        void *at;
        size_t size;
    } memory[3];
};

/* Loads the message of a command. Returns 0 or an errno; in both cases agent_unload() must be
 * called. If the strings come through a pipe, waits for the pipe with `wait`, whose fd is
 * ignored. */
int agent_load(const struct agent_request *request, const struct agent_wait *wait,
               struct agent_loaded *loaded);
void agent_unload(struct agent_loaded *loaded);

/* ---- tree.c: killing and signalling all descendants of a subreaper --------------------------- */

/* Orphans are reparented to the subreaper, whatever their session and process group. */

/* Opens /proc, so that later mounts can't hide it. Returns -1 if /proc is no proc file system. */
int agent_open_proc(void);

/* Sends a signal to every descendant of the caller, or, if `group` is not 0, only to descendants in
 * that process group. Processes that are created meanwhile may be missed. Returns false if /proc
 * can't be read. */
bool agent_signal_tree(int proc, pid_t group, int sig);

/* Returns whether a child of the caller is to be spared. */
typedef bool agent_spared(pid_t pid, void *arg);

/* Kills the descendants of the caller, except spared children and their descendants. Returns
 * whether any process was found. */
bool agent_kill_others(int proc, agent_spared *spared, void *arg);

/* Stops all processes but the caller and process 1 for a moment, and kills the descendants of
 * `root`. Afterwards all processes continue, even those that were stopped before. */
void agent_kill_while_stopped(int proc, pid_t root);

struct agent_killing {
    /* Reaps children that have exited. Returns whether any are left. */
    bool (*reap)(void *arg);
    /* Asks the agent to call agent_kill_while_stopped() for the caller; NULL if not allowed. */
    void (*get_help)(void *arg);
    void *arg;
    pid_t group; /* a process group that contains only descendants, or 0 */
};

/* Kills descendants until the caller has no child, and so no descendant. */
void agent_kill_tree(int proc, const struct agent_killing *how);

/* ---- start.c: starting a command ------------------------------------------------------------- */

struct agent_start {
    const struct agent *agent;
    const struct agent_message *message;
    const struct agent_strings *strings;
    const gid_t *groups; /* groups of the message */
    int stdio[3];
    struct agent_wait wait; /* parameters of the wait for execve(2); fd is ignored */
    void *stack;            /* top of the command's stack; NULL uses the caller's */
    bool has_terminal;      /* whether stdio is a terminal that becomes the controlling terminal */
    int step;               /* out: the step that failed, or 0 */
    int errnum;             /* out: the errno of that step */
};

/* Starts a command, and returns its pid after a successful execve(2). A command of another user can
 * delay its execve(2), so the host may cancel the start until then: the agent kills the command.
 * Returns -1 if there is no process; then `start` has the error. */
pid_t agent_start_command(struct agent_start *start);

/* ---- terminal.c: a pseudoterminal between a command and the host's descriptors --------------- */

/* Data in transit in one direction. The buffer has the size that a pipe accepts without blocking
 * once poll(2) reports POLLOUT (PIPE_BUF, pipe(7)). */
struct agent_flow {
    size_t from;
    size_t to;
    char bytes[4096];
};

struct agent_terminal {
    int master; /* -1 if there is no terminal */
    int input;  /* the host's input, which the caller closes; -1 after end of file */
    int output;
    bool is_mid_line; /* whether the last input did not end with a newline */
    int ends;         /* number of VEOF characters still to type, for the end of input */
    struct agent_flow in;
    struct agent_flow out;
};

/* Creates a pseudoterminal. Returns its slave side, or -1 with errno. */
int agent_terminal_open(struct agent_terminal *terminal, int input, int output, uint16_t rows,
                        uint16_t columns);
void agent_terminal_resize(const struct agent_terminal *terminal, uint16_t rows, uint16_t columns);

/* Sends SIGWINCH, which gVisor's kernel does not send, to the foreground process group, or to
 * `group` if there is none. */
void agent_terminal_signal_resize(const struct agent_terminal *terminal, pid_t group);

#define AGENT_TERMINAL_POLLS 3
/* Fills in AGENT_TERMINAL_POLLS entries for poll(2); descriptors may be -1. */
void agent_terminal_polls(const struct agent_terminal *terminal, struct pollfd *polls);
/* Copies as much as possible without blocking, according to the result of poll(2). */
void agent_terminal_copy(struct agent_terminal *terminal, const struct pollfd *polls);
/* Returns whether the host has received all output of the command. To be called after the last
 * process has closed the slave side. */
bool agent_terminal_drained(struct agent_terminal *terminal);
/* Closes the master side, which hangs up the terminal. */
void agent_terminal_close(struct agent_terminal *terminal);

/* ---- keeper.c: running a command to its end
 * --------------------------------------------------------- */

/*
 * A keeper starts a command, reports its status to the host, obeys messages of the host, and runs
 * until no process of the command is left.
 */

/* Runs a keeper in a child of the agent, which may share the agent's memory; the keeper exits when
 * the agent exits. Runs the command whose message is in the block; then, if agent->idle is set,
 * further commands. Returns the exit status. */
int agent_keep(struct agent_block *block);

/* ---- serve.c: the main loop of the agent ----------------------------------------------------- */

/*
 * Serves the host on the socket `control` until its end, or until SIGTERM has arrived and no
 * command is left. Returns the exit status. `is_inside` says that this is the agent program in a
 * sandbox: keepers then share its memory, which is cheap, and which its own libc allows; and all
 * processes may be stopped for a moment. With `outlives`, process 1 continues after the end of
 * `control`.
 */
int agent_serve(int control, bool is_inside, bool outlives);

/* ---- leftovers.c: state that ended processes leave in the kernel ----------------------------- */

/*
 * Prints the names in /dev/shm, and the writable files in /proc/sys as shown by /proc and by
 * another mount of proc, to standard output: for each the path, NUL, the contents (empty for
 * /dev/shm), NUL. Returns false if reading fails or a limit is exceeded.
 */
bool agent_print_leftovers(void);

/* ---- copy_out.c: sending files to the host ----------------------------------------------------
 */

/* Flags to open a file of unknown type: the open neither blocks nor has a side effect. */
#define AGENT_OPEN_FILE (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
/* Flags to open a directory, but no symbolic link to one: without O_PATH, gVisor 20240729 follows a
 * link in spite of O_NOFOLLOW. */
#define AGENT_OPEN_DIRECTORY (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* The part of a file or directory tree to send. */
enum agent_sending { AGENT_SEND_TREE, AGENT_SEND_FILE, AGENT_SEND_ENTRIES };

/* Sends `path` to the descriptor `output`, as records (protocol.h): a file or directory tree, a
 * regular file alone, or the entries of a directory without their contents. Symbolic links in
 * `path` are followed, and links in a tree are sent as links. Only regular files are opened.
 * Returns whether everything was sent. */
bool agent_copy_out(int output, const char *path, enum agent_sending what);

/* ---- copy_in.c: creating files that the host sends --------------------------------------------
 */

struct agent_copying {
    int input;
    int output;       /* for the answer, AGENT_DONE or AGENT_STOPPED */
    const char *path; /* the file or directory to create */
    bool parents;     /* whether to create missing directories above `path` */
    bool merges;      /* whether to add to existing directories, whose modes and times stay, and to
                       * replace existing files */
};

/* Creates a file or directory tree from records (protocol.h). Returns whether all was created. */
bool agent_copy_in(const struct agent_copying *how);

/* Replaces the content of a regular file, or creates the file. Symbolic links in the path are
 * followed. Returns whether the whole content was written; a file that was created for nothing is
 * removed again. */
bool agent_write_file(const struct agent_copying *how);

/* ---- files.c: the command line of both ------------------------------------------------------- */

/* Handles the arguments after `--files`: "get", "read", "list", "put" or "write", an absolute path,
 * and `--parents` and `--merge`. Standard input and output carry the records. Returns the exit
 * status. */
int agent_handle_files(char **argv);

/* ---- libc.c: setup of the agent's own libc --------------------------------------------------- */

/* Gives each process that shares the memory an errno of its own, in the block of its stack. To be
 * called by the first process before it starts others. */
void agent_split_errno(void);

#endif
