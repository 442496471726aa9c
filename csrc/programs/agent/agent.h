/* The parts of usernsctl-agent, which starts the commands of a sandbox. Internal. */
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

/* Changes the uid of the calling process to a uid that no other process has, and keeps its
 * capabilities, so that only processes with CAP_KILL can send it signals. Returns false, with the
 * uid unchanged, if this process may not change its uid. */
bool agent_switch_to_unused_uid(void);

/* Sets the effective uid, which becomes the owner of files that this process creates. The real uid,
 * which determines which processes may send signals to this process, is unchanged. Returns the
 * previous effective uid, for agent_restore_uid(). A failure is ignored here, because an agent that
 * may not change its uid later fails to start the command, in change_ids(). */
uid_t agent_set_effective_uid(uid_t uid);
void agent_restore_uid(uid_t own);

/* Drops all capabilities except `wanted` from the bounding set, so that no program can regain them.
 * To be called in a child of the agent before the child changes its ids. Returns 0, or -1 with
 * errno set. */
int agent_limit_caps(const struct agent_caps *caps, uint64_t wanted);

/* Sets the effective and permitted capabilities to `wanted`, and clears the inheritable
 * capabilities. To be called in a child of the agent after the child has changed its ids. Returns
 * 0, or -1 with errno set. */
int agent_set_caps(uint64_t wanted);

/* ---- entries.c: listing a directory without libc --------------------------------------------- */

/* A callback that handles one directory entry. Returns whether the listing shall continue. */
typedef bool agent_take_entry(const char *name, void *arg);

/* Calls `take` for each entry of the directory `name` in `dir`, except "." and "..". Opens a new
 * descriptor for each call, so that several processes may list the directory at the same time.
 * Returns whether the complete directory was listed; on failure errno is set. */
bool agent_each_entry(int dir, const char *name, agent_take_entry *take, void *arg);

/* ---- message.c: parsing the message of a command --------------------------------------------- */

/* Maximum numbers of supplementary groups (Linux's NGROUPS_MAX) and of resource limits (more than
 * RLIM_NLIMITS) in a message. */
#define AGENT_GROUPS_MAX 65536
#define AGENT_LIMITS_MAX 64

struct agent_message {
    struct agent_header header;
    const char *groups; /* array of uint32_t in the message, not aligned */
    const char *limits;
    const char *strings; /* strings of the command, which follow the limits; empty if
                            AGENT_STRINGS_APART is set */
    size_t strings_size;
};

/* The strings of a command, as pointers into the received bytes. */
struct agent_strings {
    const char *cwd;
    const char *program; /* path of the program, or a name to search for in PATH */
    const char **argv;
    const char **envp;
};

/* Parses a command's message except for its strings. Returns 0 or an errno, which is EPROTO if the
 * message is malformed, and E2BIG if the strings are too long. */
int agent_read_message(const char *bytes, size_t size, struct agent_message *message);

/* Returns the number of pointers that agent_read_strings() stores, including a NULL after the
 * arguments and after the environment. */
size_t agent_pointers(const struct agent_header *header);

/* Splits the strings of a message, and stores pointers to them in `pointers`, which has room for
 * agent_pointers() pointers. Returns 0, or EPROTO if the strings are malformed. */
int agent_read_strings(const struct agent_header *header, const char *bytes, size_t size,
                       const char **pointers, struct agent_strings *strings);

void agent_read_limit(const struct agent_message *message, size_t number,
                      struct agent_limit *limit);
uint32_t agent_read_group(const struct agent_message *message, size_t number);

/* ---- wire.c: messages and descriptors from the host, and answers ----------------------------- */

/* The message of a command, as received from the host. */
struct agent_request {
    size_t size;
    size_t fds; /* number of received descriptors; those beyond AGENT_FDS were closed */
    int fd[AGENT_FDS];
    int fault; /* errno if the message was truncated or descriptors were lost, otherwise 0 */
    char bytes[AGENT_MESSAGE_MAX];
};

/* Receives one message without blocking. Returns 1 after a message with the descriptors of a
 * command, 0 if the host has closed the socket, or -1 if no message is available. Answers a message
 * that lacks the command's socket with an error, and returns -1. */
int agent_receive(int socket, struct agent_request *request);

struct agent_wait {
    int fd;     /* descriptor that must become readable */
    int socket; /* socket of the command; end of file on this socket ends the wait; or -1 */
    int other;  /* descriptor for which `notify` is called once, when the descriptor is readable; or
                   -1 */
    void (*notify)(void *arg);
    void *arg;
};

/* Waits until wait->fd is readable, and returns true. Returns false if the host closes wait->socket
 * or requests the end of the command (SIGKILL) first. */
bool agent_wait_while_wanted(const struct agent_wait *wait);

void agent_close_fds(struct agent_request *request);

/* Sends an answer to the host without blocking. Returns false if the answer was not sent. */
bool agent_answer(int socket, const void *data, size_t size);
bool agent_answer_failure(int socket, int step, int errnum);

/* ---- block.c: memory of keepers -------------------------------------------------------------- */

/* Size and alignment of a stack, and size of a block, which has two stacks. Each stack lies in an
 * aligned region, which begins with the errno of the process that uses the stack, so that libc.c
 * finds errno from any address on the stack. */
#define AGENT_STACK_SIZE (128 * 1024)
#define AGENT_BLOCK_SIZE (2 * AGENT_STACK_SIZE)

struct agent;

struct agent_block {
    int error; /* errno of the keeper, whose stack is in the same region */
    pid_t keeper;
    struct agent_block *next;
    struct agent *agent;
    struct agent_request request;
};

/* Linked lists of the free blocks, and of the blocks that keepers use. */
struct agent_blocks {
    struct agent_block *free;
    struct agent_block *used;
};

/* Returns a free block, which stays in the list of free blocks, or NULL with errno set. */
struct agent_block *agent_block_free(struct agent_blocks *blocks);
/* Moves the block that agent_block_free() returns to the list of used blocks, as the block of the
 * process `keeper`. */
void agent_block_use(struct agent_blocks *blocks, pid_t keeper);
/* Frees the block of a keeper that has exited. Returns the block, or NULL if `keeper` was not the
 * pid of a keeper. */
struct agent_block *agent_block_leave(struct agent_blocks *blocks, pid_t keeper);
/* Returns whether the process with the pid `keeper` is a keeper, that is, uses a block. */
bool agent_block_has(const struct agent_blocks *blocks, pid_t keeper);
/* The first function returns the top of the keeper's stack, the second the top of the stack of the
 * keeper's command. */
void *agent_block_stack(struct agent_block *block);
void *agent_block_command_stack(struct agent_block *block);

/* ---- idle.c: keepers that run further commands ----------------------------------------------- */

/*
 * One keeper at a time, the listener, waits for the message of the next command, even while its own
 * command still runs. If that command has ended when the message arrives, the listener runs the new
 * command itself, and no other process is involved. Otherwise a waiting keeper becomes the
 * listener, or, if no keeper waits, the agent itself waits for messages.
 */

/* Signal that tells a waiting keeper that it is the listener now, or the agent that no keeper
 * listens. */
#define AGENT_LISTEN_SIGNAL SIGUSR2

/* The maximum number of keepers that wait to become the listener. */
#define AGENT_WAITING_MAX 3

/* The listener and the waiting keepers, in memory that the agent and all keepers share. Each field
 * is changed only by atomic operations. */
struct agent_idle {
    struct agent_block *listener;
    struct agent_block *waiting[AGENT_WAITING_MAX];
};

/* Makes the keeper of `block` the listener, or, if there is a listener already, a waiting keeper.
 * Returns false if AGENT_WAITING_MAX keepers are already waiting. */
bool agent_idle_join(struct agent_idle *idle, struct agent_block *block);
bool agent_idle_listens(const struct agent_idle *idle, const struct agent_block *block);
/* Makes a waiting keeper the listener in place of the keeper of `block`. If no keeper waits,
 * signals `agent` that no keeper listens. */
void agent_idle_pass_on(struct agent_idle *idle, struct agent_block *block, pid_t agent);
/* Removes a keeper that has exited from the listener and the waiting keepers. Called by the
 * agent. */
void agent_idle_forget(struct agent_idle *idle, struct agent_block *block);
/* Checks whether there is a listener, a keeper that waits for the next command. */
bool agent_idle_any(const struct agent_idle *idle);

/* ---- agent: state of the agent that keepers read --------------------------------------------- */

/* Signal from a keeper that can't kill the processes of its command to the agent, which then calls
 * agent_kill_while_stopped(). */
#define AGENT_HELP_SIGNAL SIGUSR1

struct agent_idle;

struct agent {
    pid_t pid;
    bool is_inside; /* whether the agent runs in a sandbox, so that it may stop all processes for a
                       moment */
    int control; /* socket to the host; end of file on this socket ends the agent and all commands
                  */
    int proc;    /* descriptor of /proc, or -1, see agent_open_proc() */
    uid_t uid;   /* uid of commands whose message sets no ids */
    struct agent_caps caps;
    struct agent_idle
        *idle; /* listener and waiting keepers, or NULL if each keeper runs only one command */
};

/* ---- load.c: loading all parts of a command's message ---------------------------------------- */

/* The maximum number of pointers to strings that struct agent_loaded stores without an
 * allocation. */
#define AGENT_POINTERS_MIN 512

struct agent_loaded {
    struct agent_message message;
    struct agent_strings strings;
    gid_t *groups;
    const char *pointers[AGENT_POINTERS_MIN];
    /* The memory mappings of the loaded message, which agent_unload() unmaps. */
    struct {
        void *at;
        size_t size;
    } memory[3];
};

/* Loads the message of a command. Returns 0 or an errno; in both cases agent_unload() must be
 * called. If the host sends the strings through a pipe, waits for them with `wait`, of which the
 * member `fd` is ignored. */
int agent_load(const struct agent_request *request, const struct agent_wait *wait,
               struct agent_loaded *loaded);
void agent_unload(struct agent_loaded *loaded);

/* ---- tree.c: killing and signalling all descendants of a subreaper --------------------------- */

/* The kernel reparents an orphan to the nearest subreaper, even if the orphan is in another session
 * or process group than the subreaper. */

/* Opens /proc, so that later mounts can't hide it. Returns a descriptor, or -1 if /proc is not a
 * proc file system. */
int agent_open_proc(void);

/* Sends a signal to every descendant of the calling process, or, if `group` is not 0, only to its
 * descendants in the process group `group`. Processes that are created meanwhile may be missed.
 * Returns false if /proc can't be read. */
bool agent_signal_tree(int proc, pid_t group, int sig);

/* A callback that returns whether the child `pid` of the calling process must not be killed. */
typedef bool agent_spared(pid_t pid, void *arg);

/* Kills the descendants of the calling process, except the children for which `spared` returns true
 * and their descendants. Returns whether any process to kill was found. */
bool agent_kill_others(int proc, agent_spared *spared, void *arg);

/* Stops all processes except the calling process and PID 1 for a moment, and kills the descendants
 * of `root`. Afterwards continues all processes, even those that were stopped before the call. */
void agent_kill_while_stopped(int proc, pid_t root);

struct agent_killing {
    /* Reaps children that have exited. Returns whether any child remains. */
    bool (*reap)(void *arg);
    /* Requests agent_kill_while_stopped() for the calling process; NULL if this request is not
     * allowed. */
    void (*get_help)(void *arg);
    void *arg;
    pid_t group; /* a process group that contains only descendants of this process, or 0 */
    /* true after the leader of the process group was reaped. The kernel may then reuse the id of
     * the process group, unless a descendant of this process is still in the group. */
    const bool *has_lost_leader;
};

/* Kills descendants of the calling process until it has no child, and therefore no descendant. */
void agent_kill_tree(int proc, const struct agent_killing *how);

/* ---- start.c: starting a command ------------------------------------------------------------- */

struct agent_start {
    const struct agent *agent;
    const struct agent_message *message;
    const struct agent_strings *strings;
    const gid_t *groups; /* supplementary groups in the message */
    int stdio[3];
    struct agent_wait wait; /* how to wait for the success of execve(2); wait.fd is ignored */
    void *stack;            /* top of the command's stack; NULL means the stack of the parent */
    bool has_terminal; /* whether `stdio` is the terminal that becomes the controlling terminal */
    int step;          /* output: the step that failed (AGENT_STEP_...), or 0 */
    int errnum;        /* output: errno of the failed step */
};

/* Starts a command, and returns its pid after a successful execve(2). Other processes of the
 * command's user can delay the execve(2). So the host may cancel the start until the execve(2), and
 * this function then kills the command. Returns -1 if the command was not started, and stores the
 * error in `start`. */
pid_t agent_start_command(struct agent_start *start);

/* ---- terminal.c: a pseudoterminal between a command and the host's descriptors --------------- */

/* A buffer for the data that is copied in one direction. The size of the buffer is PIPE_BUF, the
 * number of bytes that a pipe accepts without blocking once poll(2) has reported POLLOUT
 * (pipe(7)). */
struct agent_flow {
    size_t from;
    size_t to;
    char bytes[4096];
};

struct agent_terminal {
    int master; /* descriptor of the master side, or -1 if the command has no terminal */
    int input;  /* input from the host, which the caller closes; -1 after end of file */
    int output;
    bool is_mid_line; /* whether the last byte of input was not a newline */
    int ends;         /* number of VEOF characters still to write, to signal end of file */
    struct agent_flow in;
    struct agent_flow out;
};

/* Creates a pseudoterminal. Returns a descriptor of its slave side, or -1 with errno set. */
int agent_terminal_open(struct agent_terminal *terminal, int input, int output, uint16_t rows,
                        uint16_t columns);
void agent_terminal_resize(const struct agent_terminal *terminal, uint16_t rows, uint16_t columns);

/* Sends SIGWINCH, which gVisor's kernel does not send itself, to the foreground process group of
 * the terminal, or to `group` if the terminal has no foreground process group and `group` is not 0.
 */
void agent_terminal_signal_resize(const struct agent_terminal *terminal, pid_t group);

#define AGENT_TERMINAL_POLLS 3
/* Fills in AGENT_TERMINAL_POLLS entries for poll(2). Their descriptors may be -1, which poll(2)
 * ignores. */
void agent_terminal_polls(const struct agent_terminal *terminal, struct pollfd *polls);
/* Copies data between the terminal and the host as far as possible without blocking. `polls` are
 * the entries that agent_terminal_polls() has filled in, after poll(2). */
void agent_terminal_copy(struct agent_terminal *terminal, const struct pollfd *polls);
/* Returns whether the host has received all output of the command. To be called after all processes
 * of the command have exited. */
bool agent_terminal_drained(struct agent_terminal *terminal);
/* Closes the master side, which hangs up the terminal. */
void agent_terminal_close(struct agent_terminal *terminal);

/* ---- keeper.c: running a command to its end -------------------------------------------------- */

/*
 * A keeper is a process that starts a command, reports the command's status to the host, performs
 * requests of the host, and runs until no process of the command remains.
 */

/* Runs a keeper in a child of the agent, which may share the agent's memory. Runs the command whose
 * message is in the block; then, if agent->idle is set, further commands. Exits when the agent
 * exits. Returns the exit status of the keeper. */
int agent_keep(struct agent_block *block);

/* ---- serve.c: the main loop of the agent ----------------------------------------------------- */

/*
 * Serves the host on the socket `control` until end of file, or until SIGTERM has arrived and no
 * command remains. Returns the exit status of the agent. `is_inside` means that this process is
 * usernsctl-agent in a sandbox. The keepers of such an agent share the agent's memory, which is
 * cheap, and which only the agent's own libc allows. Such an agent may also stop all processes for
 * a moment. If `outlives` is set, an agent that is PID 1 continues after end of file on `control`.
 */
int agent_serve(int control, bool is_inside, bool outlives);

/* ---- leftovers.c: state that exited processes leave in the kernel ---------------------------- */

/*
 * Prints the names in /dev/shm and the writable files in /proc/sys to standard output. Prints the
 * files in /proc/sys twice: from /proc, and from another mount of proc. Each entry consists of the
 * path, NUL, the contents (empty for /dev/shm), and NUL. Returns false if reading fails, or the
 * entries exceed the size of the buffer.
 */
bool agent_print_leftovers(void);

/* ---- copy_out.c: sending files to the host --------------------------------------------------- */

/* Flags with which an open of a file of unknown type neither blocks nor has a side effect. */
#define AGENT_OPEN_FILE (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
/* Flags with which only a directory is opened, and no symbolic link to a directory. Without O_PATH,
 * gVisor 20240729 would follow a symbolic link in spite of O_NOFOLLOW. */
#define AGENT_OPEN_DIRECTORY (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* The kinds of copies that agent_copy_out() sends: a file or a complete directory tree, a regular
 * file only, or the entries of a directory. */
enum agent_sending { AGENT_SEND_TREE, AGENT_SEND_FILE, AGENT_SEND_ENTRIES };

/* Sends the file or directory `path` to the descriptor `output` as records (protocol.h). With
 * AGENT_SEND_ENTRIES, sends the entries of a directory without their contents. Follows symbolic
 * links in `path`, but sends links in a tree as links. Opens no FIFOs, sockets or devices. Returns
 * whether everything was sent. */
bool agent_copy_out(int output, const char *path, enum agent_sending what);

/* ---- copy_in.c: creating files that the host sends ------------------------------------------- */

struct agent_copying {
    int input;
    int output;       /* descriptor for the answer, AGENT_DONE or AGENT_STOPPED */
    const char *path; /* path of the file or directory to create */
    bool parents;     /* whether to create missing directories above `path` */
    bool merges;      /* whether to add to existing directories, without a change of their modes and
                         times, and to replace existing files */
};

/* Creates a file or directory tree from records (protocol.h). Returns whether the complete tree was
 * created. */
bool agent_copy_in(const struct agent_copying *how);

/* Replaces the content of a regular file, or creates the file. Symbolic links in the path are
 * followed. Returns whether the complete content was written. After a failure, removes the file if
 * this function created it. */
bool agent_write_file(const struct agent_copying *how);

/* ---- files.c: the command line of `usernsctl-agent --files` ---------------------------------- */

/* Performs the command after `--files`: "get", "read", "list", "put" or "write", an absolute path,
 * and optionally `--parents` and `--merge`. Standard input and output carry the records. Returns
 * the exit status of the program. */
int agent_handle_files(char **argv);

/* ---- libc.c: setup of the agent's own libc --------------------------------------------------- */

/* Gives each process that shares the agent's memory a separate errno, in the region of its stack.
 * To be called by the agent before it starts other processes. */
void agent_split_errno(void);

#endif
