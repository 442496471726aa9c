/* The child program usernsctl-child: its task, its messages, and its entry point. Internal. */
#ifndef USERNSCTL_CHILD_H
#define USERNSCTL_CHILD_H

#include "include/usernsctl.h"

/* ---- task.c: the task of the child program, and its messages --------------------------------- */

/*
 * A task is passed as command-line arguments of the child program: plain data on the new program's
 * own stack, without files or shared memory. Numbers are decimal. Arguments are readable by every
 * process; the environment, which is the command's, only by processes that may ptrace the child.
 */

/* The name (argv[0]) under which a program of the package acts as the child program, see
 * un_child_main(). */
#define UN_CHILD_NAME "usernsctl-child"

/* Descriptors of a task: the socket for messages, a pidfd of the parent, and namespaces to join. */
enum { UN_TASK_SOCKET, UN_TASK_PARENT, UN_TASK_NS, UN_TASK_FDS = UN_TASK_NS + UN_NS_COUNT };

enum un_task_number {
    UN_TASK_HOLD,  /* whether to hold new namespaces instead of running a command */
    UN_TASK_FLAGS, /* CLONE_NEW... flags of new namespaces */
    UN_TASK_SIGNALS,
    UN_TASK_RESTORE_SIGNALS,
    UN_TASK_OWN_STDIO,
    UN_TASK_PROPAGATION,
    UN_TASK_DROP_BOUNDING,
    UN_TASK_NO_NEW_PRIVS,
    UN_TASK_NO_MEMBARRIER,
    UN_TASK_GID,
    UN_TASK_UID,
    UN_TASK_KEEP_CAPS,
    UN_TASK_PDEATHSIG,
    UN_TASK_INIT,    /* whether the second child forks the command and runs un_be_init() */
    UN_TASK_GROUPS,  /* number of supplementary groups; -1 keeps them */
    UN_TASK_IS_ROOT, /* whether the caller is uid 0 of its user namespace */
    UN_TASK_ARGC,    /* number of arguments of the command */
    UN_TASK_TEXTS,   /* bit N is set if the task has text N of enum un_task_text */
    UN_TASK_NUMBERS
};

enum un_task_text {
    UN_TASK_POLICY, /* contents of setgroups, uid_map and gid_map of a new user namespace */
    UN_TASK_UID_MAP,
    UN_TASK_GID_MAP,
    UN_TASK_MOUNT_PROC,
    UN_TASK_ROOT,
    UN_TASK_CWD,
    UN_TASK_FILE, /* the command, and the directories to search for it */
    UN_TASK_PATH,
    UN_TASK_TEXT_COUNT
};

struct un_task {
    int fd[UN_TASK_FDS]; /* -1 for an absent descriptor */
    int64_t number[UN_TASK_NUMBERS];
    const char *text[UN_TASK_TEXT_COUNT];
    const gid_t *groups;
    const char *const *argv; /* arguments of the command; ends with NULL */
};

void un_task_init(struct un_task *task);
/* Returns whether a second child executes the command: a process does not itself enter the PID
 * namespace that it joins or creates, or the time namespace that it creates; only its later
 * children do. */
bool un_task_has_second(const struct un_task *task);

/* A task as arguments of the child program. */
struct un_task_argv {
    char fds[UN_TASK_FDS * 12 + 1];
    char numbers[UN_TASK_NUMBERS * 22 + 1];
    const char **argv; /* ends with NULL; un_task_argv_free() frees argv and groups */
    char *groups;
};

int un_task_argv_make(const struct un_task *task, struct un_task_argv *words, struct un_error *err);
/* Replaces the descriptor numbers in the arguments. Async-signal-safe. */
void un_task_argv_set_fds(struct un_task_argv *words, const int fd[UN_TASK_FDS]);
void un_task_argv_free(struct un_task_argv *words);
/* Parses the arguments of this program into a task, which refers to their memory. Returns false if
 * they are no valid task. */
bool un_task_parse(char **words, struct un_task *task);

/* Types of messages from the child program to its parent. */
enum un_news {
    UN_NEWS_FAILED,    /* an error; the command has not run */
    UN_NEWS_EXECUTING, /* the sender will execute the command next; UN_NEWS_FAILED follows if that
                        * fails
                        */
    UN_NEWS_SECOND,    /* the sender has forked a second child, whose pidfd is attached */
    UN_NEWS_INIT, /* the sender is the second child, process 1, and will start the command next */
    UN_NEWS_HOLDING, /* with descriptors of the sender's directory in /proc, and of its
                        namespaces in the order of enum un_ns */
    UN_NEWS_COUNT
};

#define UN_CAUSE_MAX 64

struct un_message {
    int32_t news; /* enum un_news */
    int32_t step; /* enum un_step of a failure; this and the next fields as in struct un_error */
    int32_t errnum;
    char cause[UN_CAUSE_MAX]; /* "" for none */
    char detail[UN_DETAIL_MAX];
};

/* Sends a message. Returns false if the parent has closed the socket. Async-signal-safe. */
bool un_send_news(int socket, const struct un_message *message, const int *fds, size_t count);
void un_send_failure(int socket, const struct un_error *err);

/* ---- enter.c: the entry point of the child program ------------------------------------------- */

/* Performs the task in the arguments, with the environment of the command, and exits. Any static
 * program of the package can act as the child program by calling this function first if argv[0] is
 * UN_CHILD_NAME. */
_Noreturn void un_child_main(char **words, char **environment);

#endif
