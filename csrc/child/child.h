/* The child program usernsctl-child: its task, its messages, and its entry point. Internal. */
#ifndef USERNSCTL_CHILD_H
#define USERNSCTL_CHILD_H

#include "sys/sys.h"

/* ---- task.c: the child program's task and its messages --------------------------------------- */

/*
 * The task of the child program is passed in the program's command-line arguments, with numbers in
 * decimal. The arguments are copied to the new program's own stack, so neither a file nor shared
 * memory is needed. Any process can read the arguments (/proc/PID/cmdline), as it can later read
 * those of the command. The command's environment, which may contain secrets, is passed as the
 * environment of the child program, which only processes that may ptrace the child can read.
 */

/* argv[0] with which a program of the package acts as the child program (un_child_main()). */
#define UN_CHILD_NAME "usernsctl-child"

/* Indexes of a task's descriptors: the socket for messages, a pidfd of the parent, and the
 * namespaces to join. */
enum { UN_TASK_SOCKET, UN_TASK_PARENT, UN_TASK_NS, UN_TASK_FDS = UN_TASK_NS + UN_NS_COUNT };

struct un_task {
    int fd[UN_TASK_FDS]; /* descriptors of the task, indexed by UN_TASK_...; -1 for an absent
                            descriptor */
    bool holds;    /* whether the child only keeps new namespaces alive, and runs no command */
    bool has_init; /* whether the second child (un_task_has_second()) is PID 1 of the new PID
                      namespace, and forks the command */
    bool restore_signals;      /* whether to reset SIGPIPE and SIGXFSZ to the default action (struct
                                  un_spawn) */
    uint64_t flags;            /* CLONE_NEW... flags of the namespaces to create */
    uint64_t signals;          /* signal mask of the command */
    struct un_own_maps maps;   /* uid map and gid map of the new user namespace */
    struct un_setup setup;     /* setup in the namespaces; its parent_pidfd is fd[UN_TASK_PARENT] */
    struct un_command command; /* the command; its environment is the environment of the child
                                  program */
};

/* UN_EACH_TASK_NUMBER() applies a macro to each member of struct un_task with a numeric argument,
 * and UN_EACH_TASK_TEXT() to each member with a text argument, in the order of the arguments. */
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

/* UN_TASK_NUMBERS and UN_TASK_TEXTS are the counts of numbers and of strings in the arguments of a
 * task. Two numbers precede the members in UN_EACH_TASK_NUMBER: the number of the command's
 * arguments, and a bit mask of the members in UN_EACH_TASK_TEXT that are not NULL (bit N for member
 * N, counted from 0). */
#define UN_TASK_COUNT(member) +1
enum {
    UN_TASK_NUMBERS = 2 UN_EACH_TASK_NUMBER(UN_TASK_COUNT),
    UN_TASK_TEXTS = 0 UN_EACH_TASK_TEXT(UN_TASK_COUNT)
};

void un_task_init(struct un_task *task);
/* Returns whether the command must run in a second child, a sibling that the child program forks
 * with CLONE_PARENT. A process that creates or joins a PID namespace, or creates a time namespace,
 * remains outside of that namespace. Only the children that the process forks afterwards are
 * inside. */
bool un_task_has_second(const struct un_task *task);

/* A task in the form of arguments of the child program. */
struct un_task_argv {
    char fds[UN_TASK_FDS * 12 + 1];
    char numbers[UN_TASK_NUMBERS * 22 + 1];
    const char **argv; /* the arguments, terminated by NULL */
    char *groups;
};

int un_task_argv_make(const struct un_task *task, struct un_task_argv *words, struct un_error *err);
/* Replaces the descriptors' numbers in the arguments that un_task_argv_make() has written.
 * Async-signal-safe. */
void un_task_argv_set_fds(struct un_task_argv *words, const int fd[UN_TASK_FDS]);
void un_task_argv_free(struct un_task_argv *words);
/* Parses the arguments of this program into `task`, which then points to them: strings are not
 * copied. Returns false if the arguments are not a valid task. */
bool un_task_parse(char **words, struct un_task *task);

/* Types of messages from the child program to its parent. */
enum un_message_type {
    UN_MESSAGE_FAILED,    /* the command can't run; the message contains the error */
    UN_MESSAGE_EXECUTING, /* the sender will now execute the command; if execve(2) fails,
                             UN_MESSAGE_FAILED follows */
    UN_MESSAGE_SECOND, /* the sender has forked the second child (un_task_has_second()), whose pidfd
                          is attached */
    UN_MESSAGE_INIT,   /* the sender is the second child and PID 1 of the new PID namespace; it will
                          fork the command */
    UN_MESSAGE_HOLDING, /* the sender keeps new namespaces alive; attached are descriptors of the
                           sender's /proc directory, and of the namespaces in the order of enum
                           un_ns */
    UN_MESSAGE_TYPES
};

#define UN_CAUSE_MAX 64

struct un_message {
    int32_t type; /* type of the message (enum un_message_type) */
    int32_t step; /* step that failed (enum un_step); step, errnum, cause and detail are as in
                     struct un_error */
    int32_t errnum;
    char cause[UN_CAUSE_MAX]; /* id of the cause of the failure; "" if it is unknown */
    char detail[UN_DETAIL_MAX];
};

/* Sends a message. Returns false if the parent has closed the socket. Async-signal-safe. */
bool un_send_message(int socket, const struct un_message *message, const int *fds, size_t count);
void un_send_failure(int socket, const struct un_error *err);

/* ---- enter.c: the entry point of the child program ------------------------------------------- */

/* Executes the task in the arguments, in the environment of the command, and exits. A static
 * program of the package that can act as the child program calls this function before anything else
 * if its argv[0] is UN_CHILD_NAME. */
_Noreturn void un_child_main(char **words, char **environment);

#endif
