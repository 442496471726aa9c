/* The agent: it starts the commands of a sandbox. */
#ifndef USERNSCTL_PROGRAMS_AGENT_AGENT_H
#define USERNSCTL_PROGRAMS_AGENT_AGENT_H

#include "programs/agent/protocol.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- caps.c: which capabilities the agent has, and a command gets ---------------------------- */

struct agent_caps {
    uint64_t bounding;
};

/* What the caller has. */
void agent_read_caps(struct agent_caps *caps);

/* Has the caller be a user that nobody else is, and keep what it is capable of: whoever may not
 * signal just anybody (CAP_KILL) can't signal it. Returns false if the caller may not, and is who
 * it was. */
bool agent_become_nobody(void);

/* Does what follows as another user, as far as files are concerned: who could signal us still can,
 * and nobody else. Returns what to give back. */
uid_t agent_borrow_uid(uid_t uid);
void agent_return_uid(uid_t own);

/* In a child of it, before its ids change: takes all but `wanted` from the bounding set, so that no
 * program gives them back. -1 with errno. */
int agent_limit_caps(const struct agent_caps *caps, uint64_t wanted);

/* Afterwards: exactly these, and none is inheritable. -1 with errno. */
int agent_set_caps(uint64_t wanted);

/* ---- entries.c: the names in a directory, without a libc ------------------------------------- */

/* Takes one name; returns whether to go on. */
typedef bool agent_take_entry(const char *name, void *arg);

/* Reads the directory `name` in `dir`, by a descriptor of its own, so that several processes may
 * read it at once. "." and ".." are left out. Returns whether it was read to its end; if it can't
 * be read, errno says why. */
bool agent_each_entry(int dir, const char *name, agent_take_entry *take, void *arg);

/* ---- message.c: reading the message of a command --------------------------------------------- */

/* As many as one may have (NGROUPS_MAX), and a few more limits than there are. */
#define AGENT_GROUPS_MAX 65536
#define AGENT_LIMITS_MAX 64

struct agent_message {
    struct agent_header header;
    const char *groups; /* where they are: nothing is aligned */
    const char *limits;
    const char *words; /* what is left; with AGENT_WORDS_APART, nothing */
    size_t words_size;
};

/* What a command is made of: all of it is in the bytes of its words. */
struct agent_words {
    const char *cwd;
    const char *program; /* a path, or what is looked up */
    const char **argv;
    const char **envp;
};

/* 0, or an errno: EPROTO if it is no message of ours, E2BIG if it is too big. */
int agent_read_message(const char *bytes, size_t size, struct agent_message *message);

/* Returns how many pointers agent_read_words() fills in. */
size_t agent_pointers(const struct agent_header *header);

/* Takes the words apart; `pointers` has room for agent_pointers(). 0, or EPROTO. */
int agent_read_words(const struct agent_header *header, const char *bytes, size_t size,
                     const char **pointers, struct agent_words *words);

void agent_read_limit(const struct agent_message *message, size_t number,
                      struct agent_limit *limit);
uint32_t agent_read_group(const struct agent_message *message, size_t number);

/* ---- wire.c: sockets of the host, descriptors that come over them, and answers --------------- */

/* A command's message, as it came. */
struct agent_letter {
    size_t size;
    size_t fds; /* how many came; more than AGENT_FDS if too many did, and those are closed */
    int fd[AGENT_FDS];
    int fault; /* an errno if it was longer than `bytes`, or descriptors were lost; or else 0 */
    char bytes[AGENT_MESSAGE_MAX];
};

/* Takes one message without waiting. 1: there was one, with what belongs to a command; 0: the host
 * has closed its end; -1: there is none yet. One without a socket of the command's is answered. */
int agent_receive(int socket, struct agent_letter *letter);

struct agent_wait {
    int fd;     /* for what can be read here, or for its end */
    int socket; /* of the command that this is for; -1: it is waited for in any case */
    int other;  /* if there is something here, `tell` is told so, once; or -1 */
    void (*tell)(void *arg);
    void *arg;
};

/* Returns false if the host has closed `socket` before that, or has asked for the end of the
 * command. */
bool agent_wait_while_wanted(const struct agent_wait *wait);

void agent_close_fds(struct agent_letter *letter);

/* Sends without waiting for the host to read. Returns false if the answer was not sent. */
bool agent_answer(int socket, const void *data, size_t size);
bool agent_answer_failure(int socket, int step, int errnum);

/* ---- block.c: the memory that a keeper works in ---------------------------------------------- */

/* What a stack is in has its size and begins at a multiple of it, with the errno of who runs there:
 * so from any place of a stack it is known whose that is (libc.c). A block has two of them. */
#define AGENT_STACK_SIZE (128 * 1024)
#define AGENT_BLOCK_SIZE (2 * AGENT_STACK_SIZE)

struct agent;

struct agent_block {
    int error; /* errno of who runs on this stack */
    pid_t keeper;
    struct agent_block *next;
    struct agent *agent;
    struct agent_letter letter;
};

/* Those that are free, and those that somebody works in. */
struct agent_blocks {
    struct agent_block *free;
    struct agent_block *used;
};

/* One that is free, which it remains. NULL with errno. */
struct agent_block *agent_block_free(struct agent_blocks *blocks);
/* That one is used from now on. */
void agent_block_use(struct agent_blocks *blocks, pid_t keeper);
/* Its keeper has ended: NULL if it had none, or else the block, which is free. */
struct agent_block *agent_block_leave(struct agent_blocks *blocks, pid_t keeper);
/* Returns whether a keeper works in one. */
bool agent_block_has(const struct agent_blocks *blocks, pid_t keeper);
/* Where the keeper's stack begins, and that of the command. */
void *agent_block_stack(struct agent_block *block);
void *agent_block_command_stack(struct agent_block *block);

/* ---- idle.c: keepers that are used again ----------------------------------------------------- */

/*
 * One of the keepers listens for the next command, also while it keeps one: if that has ended when
 * the next one comes, no other process has to do anything. If not, another keeper that has nothing
 * to keep takes its place, or else the agent.
 */

/* What tells a keeper that it listens now, and the agent that nobody does. */
#define AGENT_TURN_SIGNAL SIGUSR2

/* So many wait at most. */
#define AGENT_WAITING_MAX 3

/* In memory that all share who use it: each field is changed at once. */
struct agent_idle {
    struct agent_block *listener;
    struct agent_block *waiting[AGENT_WAITING_MAX];
};

/* The keeper of `block` listens or waits from now on. Returns false if there are enough. */
bool agent_idle_join(struct agent_idle *idle, struct agent_block *block);
bool agent_idle_listens(const struct agent_idle *idle, const struct agent_block *block);
/* That one has something else to do: another one listens, or `agent` is told that nobody does. */
void agent_idle_pass_on(struct agent_idle *idle, struct agent_block *block, pid_t agent);
/* For the agent: the keeper of `block` has ended. */
void agent_idle_forget(struct agent_idle *idle, struct agent_block *block);
/* Returns whether somebody listens. */
bool agent_idle_any(const struct agent_idle *idle);

/* ---- agent: what every keeper knows of the agent --------------------------------------------- */

/* What a keeper tells the agent that can't end what it keeps: agent_kill_while_all_stands(). */
#define AGENT_HELP_SIGNAL SIGUSR1

struct agent_idle;

struct agent {
    pid_t pid;
    bool is_inside; /* all that runs here may be stopped: it is in a sandbox */
    int control;    /* from the host; its end is the end of all */
    int proc;       /* see agent_open_proc() */
    uid_t uid;      /* what a command has that is to have no ids of its own */
    struct agent_caps caps;
    struct agent_idle *idle; /* NULL: each keeper has one command */
};

/* ---- words.c: all of a command's message, wherever its words are ----------------------------- */

/* So many words need no memory of their own. */
#define AGENT_FEW 512

struct agent_loaded {
    struct agent_message message;
    struct agent_words words;
    gid_t *groups;
    const char *few[AGENT_FEW];
    /* What is not in here or in the message itself, to be given back. */
    struct {
        void *at;
        size_t size;
    } memory[3];
};

/* 0, or an errno; in any case there is something to unload. Words that come through a pipe are
 * waited for as `wait` says, but for its fd. */
int agent_load(const struct agent_letter *letter, const struct agent_wait *wait,
               struct agent_loaded *loaded);
void agent_unload(struct agent_loaded *loaded);

/* ---- tree.c: all descendants of a process that is their subreaper ---------------------------- */

/* Whatever sessions and groups there are, an orphan becomes a child of the subreaper. */

/* Opens a descriptor of /proc that nothing mounted later covers, -1 where it is not one. */
int agent_open_proc(void);

/* Sends a signal to every descendant of the caller, or to those in the group `group` if that is not
 * 0. What is made meanwhile may be left out. Returns false if /proc does not tell. */
bool agent_signal_tree(int proc, pid_t group, int sig);

/* Whether a child of the caller is to be left alone. */
typedef bool agent_spared(pid_t pid, void *arg);

/* Kills the descendants of the caller, but for those children that are spared, and theirs: whether
 * there were any. */
bool agent_kill_others(int proc, agent_spared *spared, void *arg);

/* Stops everything but the caller and process 1 for a moment, and kills what is below `root`. What
 * somebody had stopped before goes on afterwards, too. */
void agent_kill_while_all_stands(int proc, pid_t root);

struct agent_killing {
    /* Waits for the children that have ended: whether there are any left. */
    bool (*reap)(void *arg);
    /* Has somebody call agent_kill_while_all_stands() for the caller; NULL: nobody may. */
    void (*get_help)(void *arg);
    void *arg;
    pid_t group; /* one in which there are only descendants, or 0 */
};

/* Kills until the caller has no child any more, and so no descendant. */
void agent_kill_tree(int proc, const struct agent_killing *how);

/* ---- start.c: what becomes a command: a child that does what was asked for, and executes it -- */

struct agent_start {
    const struct agent *agent;
    const struct agent_message *message;
    const struct agent_words *words;
    const gid_t *groups; /* those of the message */
    int stdio[3];
    struct agent_wait wait; /* what is waited for meanwhile, but for its fd */
    void *stack;            /* where it begins; NULL: that of the caller */
    bool has_terminal;      /* they are one, which is to control the session */
    int step;               /* out: what failed, or 0 ... */
    int errnum;             /* ... and why */
};

/* Returns when it has been executed. Where that takes so long that nobody wants it any more, it is
 * killed: its own user may stop it before. Its process id; -1: there is no process, and `start`
 * says why. */
pid_t agent_start_command(struct agent_start *start);

/* ---- terminal.c: a terminal of the sandbox, between the command and the host's descriptors --- */

/* A terminal of the sandbox's own, between the command and the host's descriptors. */

/* What is on its way in one direction. One piece is what a pipe takes without blocking once poll(2)
 * says that it takes something (PIPE_BUF, pipe(7)). */
struct agent_flow {
    size_t from;
    size_t to;
    char bytes[4096];
};

struct agent_terminal {
    int master; /* -1: there is none */
    int input;  /* the host's, not ours to close; -1: it has ended */
    int output;
    bool line_begun; /* what was typed last did not end a line */
    int ends;        /* so often the command is still to be told that there is no more input */
    struct agent_flow in;
    struct agent_flow out;
};

/* Makes one: its other side, or -1 with errno. */
int agent_terminal_open(struct agent_terminal *terminal, int input, int output, uint16_t rows,
                        uint16_t columns);
void agent_terminal_resize(const struct agent_terminal *terminal, uint16_t rows, uint16_t columns);

/* SIGWINCH to who is in its foreground, or to `group`: gVisor's kernel does not send it. */
void agent_terminal_tell_size(const struct agent_terminal *terminal, pid_t group);

#define AGENT_TERMINAL_POLLS 3
/* What is to be waited for, in AGENT_TERMINAL_POLLS entries; a descriptor may be -1. */
void agent_terminal_polls(const struct agent_terminal *terminal, struct pollfd *polls);
/* Copies what can be copied without waiting, as poll(2) said. */
void agent_terminal_copy(struct agent_terminal *terminal, const struct pollfd *polls);
/* Returns whether all that the command has written is with the host: to be asked when nobody has
 * the other side any more. */
bool agent_terminal_drained(struct agent_terminal *terminal);
/* Hangs up. */
void agent_terminal_close(struct agent_terminal *terminal);

/* ---- keeper.c: the life of a command --------------------------------------------------------- */

/*
 * A keeper starts a command, tells the host how the command goes, does what the host says, and
 * stays as long as any process of the command is left.
 */

/* Runs in a child of the agent, which may share its memory; the end of that is the end of this. It
 * keeps the command whose letter is in the block, and then, where keepers are used again, others.
 */
int agent_keep(struct agent_block *block);

/* ---- serve.c: what the agent does all the time ----------------------------------------------- */

/*
 * Serves the host on `control` until that ends, or SIGTERM has come and no command is left: the
 * exit status. `is_inside` says that we are the program, in a sandbox: then keepers share our
 * memory, which makes them cheap, and which our libc can live with; and all that runs here may be
 * stopped. With `outlives`, process 1 goes on when `control` has ended.
 */
int agent_serve(int control, bool is_inside, bool outlives);

/* ---- leftovers.c: what a sandbox keeps of processes that have ended, apart from its files ---- */

/*
 * Writes to standard output each name in /dev/shm, and each file in /proc/sys that may be written
 * to, as /proc and another procfs show it: the path, NUL, the content (of names in /dev/shm
 * nothing), NUL. Returns false if that can't be read, or is more than anybody has.
 */
bool agent_print_leftovers(void);

/* ---- libc.c: what the agent's libc is told --------------------------------------------------- */

/* To be called by the first process, before it makes those that share its memory: each of them has
 * an errno of its own, in the block that its stack is in. */
void agent_split_errno(void);

#endif
