/* The child program usernsctl-child: its task, its messages, and its entry point. Internal. */
#ifndef USERNSCTL_CHILD_H
#define USERNSCTL_CHILD_H

#include "sys/sys.h"

/* ---- task.c: the task of the child program, and its messages --------------------------------- */

/*
 * A task is passed as command-line arguments of the child program. Arguments are plain data on the
 * new program's own stack, so no file or shared memory is needed. Numbers are decimal. Every
 * process can read the arguments. Only processes that may ptrace the child can read its
 * environment, which is the command's.
 */

/* The name (argv[0]) under which a program of the package acts as the child program, see
 * un_child_main(). */
#define UN_CHILD_NAME "usernsctl-child"

/* Indexes of the descriptors of a task: the socket for messages, a pidfd of the parent, and
 * namespaces to join. */
enum { UN_TASK_SOCKET, UN_TASK_PARENT, UN_TASK_NS, UN_TASK_FDS = UN_TASK_NS + UN_NS_COUNT };

struct un_task {
    int fd[UN_TASK_FDS];  /* descriptors of the task; -1 for an absent one */
    bool holds;           /* whether the child only keeps new namespaces alive, without a command */
    bool has_init;        /* whether the second child forks the command and runs un_be_init() */
    bool restore_signals; /* whether to reset SIGPIPE and SIGXFSZ, see struct un_spawn */
    uint64_t flags;       /* CLONE_NEW... flags of the namespaces to create */
    uint64_t signals;     /* signal mask of the command */
    struct un_own_maps maps; /* maps of the new user namespace */
    struct un_setup setup;   /* setup inside; setup.parent_pidfd is passed as fd[UN_TASK_PARENT] */
    struct un_command command; /* the command, whose environment is that of the child program */
};

/* The members of struct un_task that are passed as numbers and as texts, in the order of the
 * arguments. */
/* clang-format off */
#define UN_EACH_TASK_NUMBER(NUMBER)                                                                \
    NUMBER(holds) NUMBER(has_init) NUMBER(restore_signals) NUMBER(flags) NUMBER(signals)           \
    NUMBER(maps.is_root) NUMBER(setup.own_stdio) NUMBER(setup.propagation)                         \
    NUMBER(setup.drop_bounding) NUMBER(setup.no_new_privs) NUMBER(setup.no_membarrier)             \
    NUMBER(setup.group_count) NUMBER(setup.gid) NUMBER(setup.uid) NUMBER(setup.keep_caps)          \
    NUMBER(setup.pdeathsig)
#define UN_EACH_TASK_TEXT(TEXT)                                                                    \
    TEXT(maps.policy) TEXT(maps.map[UN_UID]) TEXT(maps.map[UN_GID]) TEXT(setup.mount_proc)         \
    TEXT(setup.root) TEXT(setup.cwd) TEXT(command.file) TEXT(command.path)
/* clang-format on */

/* Number of numbers among the arguments of a task. Two numbers precede those of
 * UN_EACH_TASK_NUMBER: the number of the command's arguments, and a bit set of the texts that are
 * not NULL, with bit N for text N. */
#define UN_TASK_COUNT(member) +1
enum {
    UN_TASK_NUMBERS = 2 UN_EACH_TASK_NUMBER(UN_TASK_COUNT),
    UN_TASK_TEXTS = 0 UN_EACH_TASK_TEXT(UN_TASK_COUNT)
};

void un_task_init(struct un_task *task);
/* Returns whether a second child must execute the command. A process that joins or creates a PID
 * namespace, or creates a time namespace, does not enter the namespace itself; only the children
 * that it forks afterwards do. */
bool un_task_has_second(const struct un_task *task);

/* A task, converted to arguments of the child program. */
struct un_task_argv {
    char fds[UN_TASK_FDS * 12 + 1];
    char numbers[UN_TASK_NUMBERS * 22 + 1];
    const char **argv; /* arguments, terminated by NULL; un_task_argv_free() frees them */
    char *groups;
};

int un_task_argv_make(const struct un_task *task, struct un_task_argv *words, struct un_error *err);
/* Replaces the descriptor numbers in the arguments. Async-signal-safe. */
void un_task_argv_set_fds(struct un_task_argv *words, const int fd[UN_TASK_FDS]);
void un_task_argv_free(struct un_task_argv *words);
/* Parses the arguments of this program into a task, which refers to the memory of the arguments.
 * Returns false if the arguments are no valid task. */
bool un_task_parse(char **words, struct un_task *task);

/* Types of messages from the child program to its parent. */
enum un_message_type {
    UN_MESSAGE_FAILED,    /* an error prevents the command from running */
    UN_MESSAGE_EXECUTING, /* the sender is about to execute the command; if that fails,
                             UN_MESSAGE_FAILED follows */
    UN_MESSAGE_SECOND,    /* the sender has forked a second child, whose pidfd is attached */
    UN_MESSAGE_INIT,      /* the sender is the second child and PID 1, and will start the command */
    UN_MESSAGE_HOLDING, /* the sender keeps new namespaces alive; the message has descriptors of the
                           sender's /proc directory, and of the namespaces in the order of enum
                           un_ns */
    UN_MESSAGE_TYPES
};

#define UN_CAUSE_MAX 64

struct un_message {
    int32_t type; /* type of the message (enum un_message_type) */
    int32_t step; /* step of a failure (enum un_step); this field and the next fields are as in
                     struct un_error */
    int32_t errnum;
    char cause[UN_CAUSE_MAX]; /* id of the cause; "" if the cause is unknown */
    char detail[UN_DETAIL_MAX];
};

/* Sends a message. Returns false if the parent has closed the socket. Async-signal-safe. */
bool un_send_message(int socket, const struct un_message *message, const int *fds, size_t count);
void un_send_failure(int socket, const struct un_error *err);

/* ---- enter.c: the entry point of the child program ------------------------------------------- */

/* Performs the task in the arguments, with the environment of the command, and exits. Any static
 * program of the package can act as the child program by calling this function first if argv[0] is
 * UN_CHILD_NAME. */
_Noreturn void un_child_main(char **words, char **environment);

#endif
