/* Declarations that the source files of usernsctl-agent share. Internal to usernsctl. The agent
 * starts commands in a sandbox. For each command, the agent starts a keeper, a child process that
 * starts the command and waits for its end (keeper.c). */
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

/* Stores the capability bounding set of the calling process in `caps`. */
void agent_read_caps(struct agent_caps *caps);

/* Changes the uid of the calling process to a uid that no other process has, and keeps all
 * capabilities of the process. Afterwards only processes with CAP_KILL can send signals to the
 * process. Returns false on failure, for example without CAP_SETUID. */
bool agent_switch_to_unused_uid(void);

/* Sets the effective uid, which will own the files that this process creates. Does not change the
 * real uid, which determines the processes that may send signals to this process. Returns the
 * previous effective uid, for agent_restore_uid(). Ignores a failure, because change_ids() later
 * fails for the same reason, and reports the error. */
uid_t agent_set_effective_uid(uid_t uid);
void agent_restore_uid(uid_t own);

/* Drops all capabilities except `wanted` from the bounding set, so that execve(2) can't restore
 * them. Must be called in a child of the agent, before the child changes its ids. Returns 0, or -1
 * with errno set. */
int agent_limit_caps(const struct agent_caps *caps, uint64_t wanted);

/* Sets the effective and permitted capabilities to `wanted`, and clears the inheritable ones. Must
 * be called in a child of the agent, after the child has changed its ids. Returns 0, or -1 with
 * errno set. */
int agent_set_caps(uint64_t wanted);

/* ---- entries.c: listing a directory without libc --------------------------------------------- */

/* A callback that receives the name of a directory entry. Returns whether to continue the
 * listing. */
typedef bool agent_take_entry(const char *name, void *arg);

/* Calls `take` for each entry of the directory `name` in `dir`, except "." and "..". Opens a new
 * descriptor on each call, so that several processes can list the directory at the same time. Stops
 * when `take` returns false. Returns whether the whole directory was listed; after a failed system
 * call, errno is set. */
bool agent_each_entry(int dir, const char *name, agent_take_entry *take, void *arg);

/* ---- message.c: parsing a message that requests a command ------------------------------------ */

/* Maximum number of supplementary groups in a message (NGROUPS_MAX). */
#define AGENT_GROUPS_MAX 65536
/* Maximum number of resource limits (setrlimit(2)) in a message. Linux has fewer (RLIM_NLIMITS). */
#define AGENT_LIMITS_MAX 64

struct agent_message {
    struct agent_header header;
    /* supplementary groups: unaligned array of uint32_t in the received message */
    const char *groups;
    const char *limits;
    /* strings of the command, which follow the limits in the message; empty if AGENT_STRINGS_APART
     * is set */
    const char *strings;
    size_t strings_size;
};

/* The strings of a command, as pointers into the received bytes. */
struct agent_strings {
    const char *cwd;
    const char *program; /* path of the program, or a name to search for in PATH */
    const char **argv;
    const char **envp;
};

/* Parses the message that requests a command, except for its strings. Returns 0 or an errno: EPROTO
 * if the message is malformed, E2BIG if the strings are too long. */
int agent_read_message(const char *bytes, size_t size, struct agent_message *message);

/* Returns the number of pointers that agent_read_strings() stores, including the NULL after the
 * arguments and the NULL after the environment. */
size_t agent_pointers(const struct agent_header *header);

/* Splits the strings of a message. Stores pointers to the strings in `pointers`, which must have
 * room for agent_pointers() elements, and in `strings`. Returns 0, or EPROTO if the strings are
 * malformed. */
int agent_read_strings(const struct agent_header *header, const char *bytes, size_t size,
                       const char **pointers, struct agent_strings *strings);

void agent_read_limit(const struct agent_message *message, size_t number,
                      struct agent_limit *limit);
uint32_t agent_read_group(const struct agent_message *message, size_t number);

/* ---- wire.c: receiving messages from the host, and answering --------------------------------- */

/* A message from the host that requests a command, with its descriptors. */
struct agent_request {
    size_t size;
    /* number of descriptors in the message; those beyond AGENT_FDS are already closed */
    size_t fds;
    int fd[AGENT_FDS];
    int fault; /* 0, or an errno if the message was truncated or descriptors were lost */
    char bytes[AGENT_MESSAGE_MAX];
};

/* Receives a message from the host without blocking. Returns 1 after a message with at least the
 * descriptors that every command needs. Answers a message with fewer descriptors with an error, and
 * returns -1. Also returns -1 if no message is pending, and 0 if the host has closed the socket. */
int agent_receive(int socket, struct agent_request *request);

struct agent_wait {
    int fd;     /* descriptor whose readability ends the wait */
    int socket; /* socket of the command, or -1; end of file or a request for SIGKILL on this socket
                   ends the wait */
    /* another descriptor, or -1; when this descriptor becomes readable, `notify` is called once,
     * and the wait continues */
    int other;
    void (*notify)(void *arg);
    void *arg;
};

/* Waits until wait->fd is readable, and returns true. Returns false if the host first closes
 * wait->socket, or requests SIGKILL for the command. */
bool agent_wait_while_wanted(const struct agent_wait *wait);

void agent_close_fds(struct agent_request *request);

/* Sends an answer to the host without blocking. Returns whether the whole answer was sent. */
bool agent_answer(int socket, const void *data, size_t size);
bool agent_answer_failure(int socket, int step, int errnum);

/* ---- block.c: memory blocks of keepers ------------------------------------------------------- */

/* Size of a stack in bytes, and its alignment. Each stack grows down in an aligned memory region.
 * The region begins with the errno of the process that uses the stack. libc.c finds that region
 * from any address on the stack. */
#define AGENT_STACK_SIZE (128 * 1024)
/* Size in bytes of a memory block, which contains the stacks of a keeper and of its command. */
#define AGENT_BLOCK_SIZE (2 * AGENT_STACK_SIZE)

struct agent;

struct agent_block {
    int error; /* errno of the keeper; must be the first member (libc.c) */
    pid_t keeper;
    struct agent_block *next;
    struct agent *agent;
    struct agent_request request;
};

/* Linked lists of memory blocks: the free ones, and those that keepers use. */
struct agent_blocks {
    struct agent_block *free;
    struct agent_block *used;
};

/* Returns the first free block, or NULL with errno set. Allocates blocks if no block is free. The
 * returned block stays in the list of free blocks. */
struct agent_block *agent_block_free(struct agent_blocks *blocks);
/* Moves the first free block to the list of used blocks, and records that the process `keeper` uses
 * it. */
void agent_block_use(struct agent_blocks *blocks, pid_t keeper);
/* Puts the block of an exited keeper back on the list of free blocks. Returns the block, or NULL if
 * no process with the pid `keeper` uses a block. */
struct agent_block *agent_block_leave(struct agent_blocks *blocks, pid_t keeper);
/* Returns whether the process `keeper` uses a memory block, that is, runs commands for the
 * agent. */
bool agent_block_has(const struct agent_blocks *blocks, pid_t keeper);
/* agent_block_stack() returns the top of the keeper's stack, and agent_block_command_stack() the
 * top of the stack on which the keeper's command starts. */
void *agent_block_stack(struct agent_block *block);
void *agent_block_command_stack(struct agent_block *block);

/* ---- idle.c: keepers that wait for the next command ------------------------------------------ */

/* At most one keeper, the listener, waits for the message that requests the next command, even
 * while its own command still runs. If that command has ended when the message arrives, the
 * listener runs the new command itself, and no other process is involved. Otherwise the listener
 * makes a waiting keeper the new listener. If no keeper is waiting, the agent itself waits for
 * messages. */

/* Signal that tells a waiting keeper that it has become the listener, the process that receives the
 * message for the next command, or tells the agent that no keeper is the listener. */
#define AGENT_LISTEN_SIGNAL SIGUSR2

/* Maximum number of keepers that have no command, and wait to become the listener. */
#define AGENT_WAITING_MAX 3

/* The memory blocks of the listener and of the keepers that wait to become the listener. The agent
 * and all keepers share this structure, so its members are changed by atomic operations only. */
struct agent_idle {
    struct agent_block *listener;
    struct agent_block *waiting[AGENT_WAITING_MAX];
};

/* Makes the keeper that uses `block` the listener or, if there is a listener already, a waiting
 * keeper. Returns false if AGENT_WAITING_MAX keepers are already waiting. */
bool agent_idle_join(struct agent_idle *idle, struct agent_block *block);
bool agent_idle_listens(const struct agent_idle *idle, const struct agent_block *block);
/* Makes a waiting keeper the listener in place of the keeper of `block`. If no keeper is waiting,
 * sends AGENT_LISTEN_SIGNAL to the agent. */
void agent_idle_pass_on(struct agent_idle *idle, struct agent_block *block, pid_t agent);
/* Removes the keeper process that used `block` from `idle`, after that process has exited. Only the
 * agent calls this function. */
void agent_idle_forget(struct agent_idle *idle, struct agent_block *block);
/* Returns whether any keeper is the listener, which receives the message for the next command. */
bool agent_idle_any(const struct agent_idle *idle);

/* ---- agent: the agent's state, which keepers read -------------------------------------------- */

/* Signal that a keeper sends to the agent to request a call of agent_kill_while_stopped(), if the
 * keeper can't kill the processes of its command by itself. */
#define AGENT_HELP_SIGNAL SIGUSR1

struct agent_idle;

struct agent {
    pid_t pid;
    /* whether the agent runs in a sandbox, where agent_kill_while_stopped() is allowed */
    bool is_inside;
    /* socket to the host; at end of file, the agent kills all commands, and exits unless it
     * outlives the host */
    int control;
    int proc;  /* descriptor of /proc from agent_open_proc(), or -1 */
    uid_t uid; /* uid of commands whose message does not set AGENT_IDS */
    struct agent_caps caps;
    /* the listener and the waiting keepers, or NULL if each keeper runs a single command */
    struct agent_idle *idle;
};

/* ---- load.c: loading the message that requests a command ------------------------------------- */

/* Number of pointers to strings that struct agent_loaded can hold without an additional
 * allocation. */
#define AGENT_POINTERS_MIN 512

struct agent_loaded {
    struct agent_message message;
    struct agent_strings strings;
    gid_t *groups;
    const char *pointers[AGENT_POINTERS_MIN];
    /* the memory mappings that agent_unload() unmaps */
    struct {
        void *at;
        size_t size;
    } memory[3];
};

/* Loads the supplementary groups and the strings of a message that requests a command. If the host
 * sends the strings through a pipe, waits for them with `wait`, whose member `fd` is ignored.
 * Returns 0 or an errno. The caller must call agent_unload(), even after a failure. */
int agent_load(const struct agent_request *request, const struct agent_wait *wait,
               struct agent_loaded *loaded);
void agent_unload(struct agent_loaded *loaded);

/* ---- tree.c: killing and signalling all descendants of a subreaper --------------------------- */

/* All processes of a command remain descendants of its keeper, because the keeper is a subreaper.
 * When a process exits, the kernel reparents its children to the nearest ancestor that is a
 * subreaper, even if the children have changed their session or process group. */

/* Opens /proc, so that a mount on it can't hide it later. Returns a descriptor, or -1 if /proc is
 * not a proc filesystem, or has the pids of another PID namespace. */
int agent_open_proc(void);

/* Sends a signal to every descendant of the calling process, or, if `group` is not 0, only to the
 * descendants in that process group. May miss processes that are created meanwhile. Returns false
 * if /proc can't be read. */
bool agent_signal_tree(int proc, pid_t group, int sig);

/* A callback that returns whether the child `pid` of the calling process must survive. */
typedef bool agent_spared(pid_t pid, void *arg);

/* Kills the descendants of the calling process, except the children for which `spared` returns
 * true, and the descendants of these children. Without /proc, kills only children; their orphans
 * become children of the calling process. Returns whether there was any process to kill. */
bool agent_kill_others(int proc, agent_spared *spared, void *arg);

/* Stops all processes of the PID namespace except the calling process and PID 1, kills the
 * descendants of `root`, and then continues all stopped processes, even those that were stopped
 * before the call. */
void agent_kill_while_stopped(int proc, pid_t root);

struct agent_killing {
    /* Reaps children that have exited. Returns whether any child remains. */
    bool (*reap)(void *arg);
    /* Makes the agent kill the descendants of the calling process by agent_kill_while_stopped().
     * NULL if that is not allowed. */
    void (*get_help)(void *arg);
    void *arg;
    pid_t group; /* process group that contains only descendants of this process, or 0 */
    /* whether the leader of the process group was reaped; the kernel may then reuse the id of the
     * group, unless a descendant is still in the group */
    const bool *has_lost_leader;
};

/* Kills all descendants of the calling process, repeatedly, until it has no child and thus no
 * descendant. */
void agent_kill_tree(int proc, const struct agent_killing *how);

/* ---- start.c: starting a command ------------------------------------------------------------- */

struct agent_start {
    const struct agent *agent;
    const struct agent_message *message;
    const struct agent_strings *strings;
    const gid_t *groups; /* supplementary groups from the message */
    int stdio[3];
    struct agent_wait wait; /* parameters of the wait for the execve(2); wait.fd is ignored */
    /* top of the stack for the command, or NULL to use the parent's stack */
    void *stack;
    /* whether the descriptors in `stdio` refer to the terminal that becomes the command's
     * controlling terminal */
    bool has_terminal;
    int step;   /* result: the step that has failed (AGENT_STEP_...), or 0 */
    int errnum; /* result: the errno of the failed step */
};

/*
 * Starts a command, and waits until its execve(2) has succeeded. Returns the pid of the command, or
 * -1 after a failure, with the error in `start`.
 *
 * Other processes of the same user can delay the execve(2), so the host can cancel the start until
 * then (agent_wait_while_wanted()). In that case, kills the child, and returns its pid.
 */
pid_t agent_start_command(struct agent_start *start);

/* ---- terminal.c: a pseudoterminal between a command and the host's descriptors --------------- */

/* A buffer for the data that is copied in one direction. The size of the buffer is PIPE_BUF,
 * because a write(2) of at most PIPE_BUF bytes to a pipe does not block after poll(2) has reported
 * POLLOUT (pipe(7)). */
struct agent_flow {
    size_t from;
    size_t to;
    char bytes[4096];
};

struct agent_terminal {
    int master; /* the master side, or -1 if the command has no terminal */
    /* the host's descriptor for the command's input, which the caller closes; -1 after end of
     * file */
    int input;
    int output;
    bool is_mid_line; /* whether the last input byte was not a newline */
    /* number of VEOF characters that must still be written to signal end of file */
    int ends;
    struct agent_flow in;
    struct agent_flow out;
};

/* Creates a pseudoterminal, and stores its master side in `terminal`. Returns a descriptor of its
 * slave side, or -1 with errno set. */
int agent_terminal_open(struct agent_terminal *terminal, int input, int output, uint16_t rows,
                        uint16_t columns);
void agent_terminal_resize(const struct agent_terminal *terminal, uint16_t rows, uint16_t columns);

/* Sends SIGWINCH to the foreground process group of the terminal, or to `group` if there is no
 * foreground group and `group` is not 0. gVisor's kernel does not send SIGWINCH itself. */
void agent_terminal_signal_resize(const struct agent_terminal *terminal, pid_t group);

#define AGENT_TERMINAL_POLLS 3
/* Fills in AGENT_TERMINAL_POLLS entries for poll(2). Unused entries have the descriptor -1, which
 * poll(2) ignores. */
void agent_terminal_polls(const struct agent_terminal *terminal, struct pollfd *polls);
/* Copies data between the terminal and the host without blocking. `polls` are the entries from
 * agent_terminal_polls(), with the results of poll(2). */
void agent_terminal_copy(struct agent_terminal *terminal, const struct pollfd *polls);
/* Returns whether all output of the command was written to the host's descriptor. Must be called
 * after all processes of the command have exited. */
bool agent_terminal_drained(struct agent_terminal *terminal);
/* Hangs up the terminal, by closing its master side. */
void agent_terminal_close(struct agent_terminal *terminal);

/* ---- keeper.c: running a command to its end -------------------------------------------------- */

/* A keeper is a process that starts a command, sends the command's exit status to the host,
 * performs the host's requests, and lives until no process of the command remains. */

/* Runs a keeper in a child of the agent. The child may share the agent's memory. The keeper runs
 * the command that block->request describes, and, if agent->idle is set, waits for more commands.
 * The keeper exits when the agent exits. Returns the exit status of the keeper. */
int agent_keep(struct agent_block *block);

/* ---- serve.c: the main loop of the agent ----------------------------------------------------- */

/*
 * Serves the host on the socket `control` until end of file, or until SIGTERM has arrived and no
 * command remains. Returns the exit status of the agent.
 *
 * `is_inside` must be set if this process is usernsctl-agent in a sandbox. In a sandbox, keepers
 * share the agent's memory, which makes keepers cheap, but is safe only with the agent's own libc.
 * The agent may also stop all processes of the sandbox while it kills the processes of a command.
 *
 * If `outlives` is set and the agent is PID 1 of its PID namespace, the agent continues after end
 * of file on `control`.
 */
int agent_serve(int control, bool is_inside, bool outlives);

/* ---- leftovers.c: state that exited processes leave in the kernel ---------------------------- */

/* Prints the names in /dev/shm and the writable files in /proc/sys to standard output. Each entry
 * consists of the path, NUL, the contents of the file (nothing for /dev/shm), and NUL. Prints
 * /proc/sys twice, once as seen in the mounted /proc, and once in a new mount of proc. Returns
 * false on failure, or if the entries exceed the buffer. */
bool agent_print_leftovers(void);

/* ---- copy_out.c: sending files to the host --------------------------------------------------- */

/* Flags for opening a file of any type without blocking and without side effects. */
#define AGENT_OPEN_FILE (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
/* Flags for opening a directory, but not a symbolic link to a directory. Without O_PATH, gVisor
 * 20240729 follows a symbolic link in spite of O_NOFOLLOW. */
#define AGENT_OPEN_DIRECTORY (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Modes of agent_copy_out(): send a regular file or a whole directory tree, send a regular file
 * only, or send the entries of a directory without their contents. */
enum agent_sending { AGENT_SEND_TREE, AGENT_SEND_FILE, AGENT_SEND_ENTRIES };

/* Writes records (protocol.h) for the file or directory `path` to the descriptor `output`. Follows
 * symbolic links in `path`, but sends the links in a directory as links. Does not open FIFOs,
 * sockets or devices. Returns whether everything was sent. */
bool agent_copy_out(int output, const char *path, enum agent_sending what);

/* ---- copy_in.c: creating files that the host sends ------------------------------------------- */

struct agent_copying {
    int input;
    int output;       /* descriptor for the answer AGENT_DONE or AGENT_STOPPED */
    const char *path; /* absolute path of the file or directory to create */
    bool parents;     /* whether to create missing parent directories of `path` */
    /* whether to add entries to existing directories, whose modes and times stay unchanged, and to
     * replace existing files */
    bool merges;
};

/* Creates a file or directory tree from records (protocol.h). Returns whether the whole tree was
 * created. */
bool agent_copy_in(const struct agent_copying *how);

/* Replaces the contents of a regular file, or creates the file, and sets its permissions. Follows
 * symbolic links in the path. Returns whether the whole contents were written. After a failure,
 * removes the file if this function has created it. */
bool agent_write_file(const struct agent_copying *how);

/* ---- files.c: the command line of `usernsctl-agent --files` ---------------------------------- */

/* Performs the subcommand in `argv`: "get", "read", "list", "put" or "write", followed by an
 * absolute path, and optionally --parents and --merge. Reads records from standard input, or writes
 * them to standard output. Returns the exit status of the program. */
int agent_handle_files(char **argv);

/* ---- libc.c: the agent's own libc ------------------------------------------------------------ */

/* Gives each process that shares the agent's memory its own errno, at the beginning of the memory
 * region of its stack (AGENT_STACK_SIZE). The agent must call this function before it starts other
 * processes. */
void agent_split_errno(void);

#endif
