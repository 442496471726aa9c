/* The child program: its task, its answers, and what it does. Internal. */
#ifndef USERNSCTL_CHILD_H
#define USERNSCTL_CHILD_H

#include "include/usernsctl.h"

/* ---- task.c: what the child program is asked to do, and what it answers ---------------------- */

/*
 * A task is passed as the words that the child program is started with. Words are plain data on the
 * new program's own stack: there is nothing to be opened, shared or freed. Numbers are decimal.
 * Everybody can read the words of a process; its environment, which is the command's, nobody can
 * who may not look into it.
 */

/* Under which name a program of ours serves as the child program, see un_child_main(). */
#define UN_CHILD_NAME "usernsctl-child"

/* Its descriptors: the socket that it answers on, a pidfd of its parent, and namespaces to join. */
enum { UN_TASK_SOCKET, UN_TASK_PARENT, UN_TASK_NS, UN_TASK_FDS = UN_TASK_NS + UN_NS_COUNT };

enum un_task_number {
    UN_TASK_HOLD,  /* whether it is to hold new namespaces, and nothing else */
    UN_TASK_FLAGS, /* CLONE_NEW... of new namespaces */
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
    UN_TASK_INIT,   /* whether the second child is un_be_init(), and has the command as its child */
    UN_TASK_GROUPS, /* how many; -1: they stay as they are */
    UN_TASK_IS_ROOT, /* whether the caller is uid 0 where it is */
    UN_TASK_WORDS,   /* of the command */
    UN_TASK_TEXTS,   /* which of these there are, bit N for N: */
    UN_TASK_NUMBERS
};

enum un_task_text {
    UN_TASK_POLICY, /* what is written to setgroups, uid_map and gid_map of a new user namespace */
    UN_TASK_UID_MAP,
    UN_TASK_GID_MAP,
    UN_TASK_MOUNT_PROC,
    UN_TASK_ROOT,
    UN_TASK_CWD,
    UN_TASK_FILE, /* the command, and where it is looked for */
    UN_TASK_PATH,
    UN_TASK_TEXT_COUNT
};

struct un_task {
    int fd[UN_TASK_FDS]; /* -1: there is none */
    int64_t number[UN_TASK_NUMBERS];
    const char *text[UN_TASK_TEXT_COUNT];
    const gid_t *groups;
    const char *const *argv; /* of the command; ends with NULL */
};

void un_task_init(struct un_task *task);
/* Returns whether the child program has a child of its own in its place: a process does not move
 * into the PID namespace that it joins or makes, nor into the time namespace that it makes; its
 * children do.
 */
bool un_task_has_second(const struct un_task *task);

/* A task as words. */
struct un_words {
    char fds[UN_TASK_FDS * 12 + 1];
    char numbers[UN_TASK_NUMBERS * 22 + 1];
    const char **argv; /* ends with NULL; to be freed, as is this: */
    char *groups;
};

int un_words_make(const struct un_task *task, struct un_words *words, struct un_error *err);
/* The numbers that its descriptors have got. Async-signal-safe. */
void un_words_set_fds(struct un_words *words, const int fd[UN_TASK_FDS]);
void un_words_free(struct un_words *words);
/* Reads a task from the words of this program, where its texts stay. Returns false if they are no
 * task. */
bool un_words_read(char **words, struct un_task *task);

/* What the child program answers. */
enum un_news {
    UN_NEWS_FAILED, /* nothing of the command has run */
    UN_NEWS_HERE, /* the sender is about to become the command; if it can't, UN_NEWS_FAILED comes */
    UN_NEWS_SECOND,  /* the sender has a child in its place, whose pidfd comes with this */
    UN_NEWS_INIT,    /* the sender is that child, and is about to start the command */
    UN_NEWS_HOLDING, /* with its directory in /proc, and the namespaces by the order of enum un_ns
                      */
    UN_NEWS_COUNT
};

#define UN_CAUSE_MAX 64

struct un_message {
    int32_t news; /* enum un_news */
    int32_t step; /* enum un_step, and so on; of a failure */
    int32_t errnum;
    char cause[UN_CAUSE_MAX]; /* "": none */
    char detail[UN_DETAIL_MAX];
};

/* Returns false if nobody is there to hear the news. Async-signal-safe. */
bool un_tell(int socket, const struct un_message *message, const int *fds, size_t count);
void un_tell_failure(int socket, const struct un_error *err);

/* ---- enter.c: what our child program does ---------------------------------------------------- */

/* Does what the words say, with the environment of the command, and ends. Any static program of
 * ours may serve as the child program, by calling this first of all if it is called UN_CHILD_NAME.
 */
_Noreturn void un_child_main(char **words, char **environment);

#endif
