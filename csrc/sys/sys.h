/* System calls that are used well. Internal. */
#ifndef USERNSCTL_SYS_H
#define USERNSCTL_SYS_H

#include "include/usernsctl.h"

#include <sched.h>
#include <signal.h>

/* ---- clone.c: starting a child that runs a function ------------------------------------------ */

/* From linux/sched.h, which does not go together with sched.h; since Linux 5.7. */
#define UN_CLONE_INTO_CGROUP 0x200000000ULL

struct un_clone {
    uint64_t flags;     /* CLONE_...; CLONE_VM only with CLONE_VFORK; CLONE_PIDFD for pidfd */
    int (*run)(void *); /* what the child does; its result is the child's exit status */
    void *arg;
    int cgroup;       /* with UN_CLONE_INTO_CGROUP: a descriptor of its directory */
    int exit_signal;  /* what the parent gets when the child ends */
    bool is_plain;    /* clone(2) will do: all signals are blocked, and there are no handlers */
    void *stack;      /* with is_plain, the end of its own: then CLONE_VM alone will do */
    pid_t pid;        /* out: the child */
    int pidfd;        /* out, with CLONE_PIDFD */
    uint64_t signals; /* out: what the caller blocks; `run` may know it, too */
};

/*
 * clone3(2), or clone(2) where that is refused (kernels before 5.3, and seccomp filters that answer
 * ENOSYS, as container engines' do), but for UN_CLONE_INTO_CGROUP, which only clone3 has. The child
 * goes on below us on the stack that we are on: a stack that has room for its calls is all it
 * takes. All signals are blocked in the child, and handlers are reset: none of the parent's may run
 * in the parent's memory. -1 with errno. Async-signal-safe.
 */
int un_clone(struct un_clone *clone);

/* Returns whether the kernel has clone3(2), and no filter keeps it from us. */
bool un_clone3_works(void);

/* Blocks every signal, those that libc keeps for itself included: what was blocked before.
 * Async-signal-safe. */
uint64_t un_block_signals(void);
void un_set_signals(uint64_t mask);
/* What this thread blocks. Async-signal-safe. */
uint64_t un_signal_mask(void);

/* Gives SIGPIPE and SIGXFSZ, which Python ignores, their default action. Async-signal-safe. */
void un_restore_signals(void);

/* ---- process.c: other processes, by descriptors, and how they ended -------------------------- */

/* waitid(2) by a pidfd, since Linux 5.4; younger than some libcs. */
#define UN_BY_PIDFD 3

/* pidfd_open(2), which older libcs lack. -1 with errno. Async-signal-safe. */
int un_pidfd_open(pid_t pid);

/* Waits until something can be read, or what a pidfd refers to has ended, for this long; -1: for
 * ever. Returns 1, 0 where time is over, or -1 with errno. Async-signal-safe. */
int un_wait_readable(int fd, int timeout_ms);

/* Waits for the end of the child that a pidfd refers to. Returns false if nobody can tell how it
 * ended: the kernel reaped it, since SIGCHLD is ignored, or somebody else did, and Linux is older
 * than 6.15. */
bool un_reap(int pidfd, siginfo_t *how);
/* Returns the signal that has stopped a child; 0: none has. */
int un_stopped_by(int pidfd);
/* SIGKILL to whom the pidfd refers, and to nobody else. */
void un_kill(int pidfd);
/* Kills a child, and reaps it as un_reap() does, but waits no longer than a few seconds: a file
 * system of others' making (FUSE) can keep even SIGKILL from a process. */
bool un_kill_and_reap(int pidfd, siginfo_t *how);

/* Returns the exit status that stands for a status of waitpid(2): the child's, or 128+N if signal N
 * killed it. */
int un_exit_status_of(int wait_status);

/* Has this thread not be cancelled: what pthread_cancel(3) does would happen in a child that shares
 * our memory, or leave a child and descriptors behind. Returns what to restore. */
int un_forbid_cancel(void);
void un_restore_cancel(int state);

/* ---- sigchld.c: waiting for children where the caller ignores SIGCHLD ------------------------ */

/*
 * Calls `run` where it can wait for the children that it starts. Where SIGCHLD is ignored, or has
 * SA_NOCLDWAIT, the kernel reaps the children of a process, and tells nobody how they ended
 * (wait(2)). To change that would change it for all threads, and for the children of all of them.
 * So `run` is called in a process of its own then, which shares our memory but not our signal
 * actions, while this thread is suspended. All signals are blocked in there: `signals` is what this
 * thread blocks, for a program that is started. It is NULL where `run` is called in this process.
 *
 * Returns what `run` does: 0, or -1 with err filled in. `run` makes system calls and little else.
 */
int un_call_waiting(int (*run)(void *arg, const uint64_t *signals), void *arg,
                    struct un_error *err);

/* For a program of ours that has one thread and waits: gives SIGCHLD its default action. `before`
 * is the caller's, which a command that is executed gets back. */
void un_default_sigchld(struct sigaction *before);

/* ---- jobs.c: running small programs side by side and reading what they say ------------------- */

struct un_job {
    const char *const *argv; /* argv[0] is a path */
    char *output;            /* where the first output_size - 1 bytes go that it writes */
    size_t output_size;
    /* Out: */
    int ended;      /* how: CLD_EXITED, CLD_KILLED, CLD_DUMPED; 0: that is not to be known */
    int status;     /* its exit status, or the signal */
    bool timed_out; /* it was killed since it took too long ... */
    int stopped_by; /* ... or since this signal had stopped it */
    /* While it runs: */
    int pidfd; /* -1: it has ended */
    int pipe;
    size_t length;
};

/* Runs all of them at the same time. 0: all have ended; how is in each of them. -1: one could not
 * be started, and none is left. */
int un_run_jobs(struct un_job *jobs, size_t count, int timeout_ms, struct un_error *err);

/* ---- self.c: this process: who may look into it, and its directory in /proc ------------------ */

/* Makes this process one that only who has CAP_SYS_PTRACE in the user namespace that it was
 * executed in may look into, until it executes something (PR_SET_DUMPABLE(2const)). A change of
 * credentials may undo it (/proc/sys/fs/suid_dumpable). Async-signal-safe. */
void un_hide_process(void);

/* Opens /proc/self. Returns a descriptor, or -1. Async-signal-safe. */
int un_open_self(struct un_error *err);

/* ---- namespaces.c: the kinds of namespaces, and going into them ------------------------------ */

/* Since Linux 5.6; younger than some libcs. */
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* Returns the file of a namespace in /proc/PID, such as "ns/user". */
const char *un_ns_file(int ns);

/* Joins the namespace of the kind `ns` that a descriptor refers to; -1: there is nothing to join.
 * The process must be hidden, and stays so. Async-signal-safe. */
int un_namespace_join_one(int fd, int ns, struct un_error *err);

/* ---- own_maps.c: what a process writes about its own new user namespace ---------------------- */

/*
 * The files in the directory of a process in /proc, in the order in which they are to be written:
 * "deny" must be there before an unprivileged process writes gid_map, and can't be written after it
 * (user_namespaces(7), "The /proc/PID/setgroups file").
 */
enum { UN_FILE_SETGROUPS, UN_FILE_UID_MAP, UN_FILE_GID_MAP, UN_MAP_FILES };

struct un_map_file {
    const char *name;
    enum un_step step; /* that of a failure */
};

extern const struct un_map_file un_map_files[UN_MAP_FILES];

/* Opens one of them to be written: a descriptor, or -1. Async-signal-safe. */
int un_map_file_open(int dir, int file, struct un_error *err);
/* Writes all of it. Async-signal-safe. */
int un_map_file_write(int fd, int file, const char *text, struct un_error *err);

struct un_own_maps {
    const char *policy; /* for setgroups; NULL: nothing is written there */
    const char *map[2]; /* the kernel's text, by enum un_kind; NULL: nothing is written */
    bool is_root;       /* whether we are uid 0 of the namespace that we come from */
};

/* Makes namespaces by unshare(2), a user namespace among them, and writes its maps. The process
 * must be hidden, and is so all the time but for three calls of open(2), for uid 0 then too.
 * Async-signal-safe. */
int un_make_and_map(uint64_t flags, const struct un_own_maps *maps, struct un_error *err);

/* ---- map_files.c: setgroups, uid_map and gid_map of a process -------------------------------- */

/* What of a plan a process writes itself, with the texts in `text`. */
void un_own_maps_of(const struct un_plan *plan, char text[2][UN_MAP_TEXT_MAX],
                    struct un_own_maps *maps);

/* Reads whether setgroups(2) is permitted: UN_SETGROUPS_ALLOW or _DENY. */
int un_setgroups_read(int dir, int *setgroups, struct un_error *err);

/* ---- filter.c: seccomp filters that kill ----------------------------------------------------- */

enum { UN_PROBE_ARGUMENTS = 5 };

/* A call, with arguments that the kernel refuses, or that change nothing. */
struct un_probe_call {
    long number;
    long argument[UN_PROBE_ARGUMENTS];
    const char *name;
    enum un_step step;
    const char *cause; /* if a filter kills who makes it */
};

/* What mounting, making a user namespace, and joining a namespace call. */
extern const struct un_probe_call un_mount_calls[5], un_unshare_call[1], un_setns_call[1];

/*
 * Returns whether a seccomp filter kills the caller of one of these calls, and fills in `err` then:
 * after the call nobody would be left to say so. A child tries them, which is dear, but only in a
 * process that has a filter (seccomp(2), SECCOMP_RET_KILL_PROCESS; systemd's SystemCallFilter= is
 * such a filter by default).
 */
bool un_filter_is_lethal(const struct un_probe_call *calls, size_t count, struct un_error *err);
#define UN_FILTER_IS_LETHAL(calls, err)                                                            \
    un_filter_is_lethal(calls, sizeof(calls) / sizeof(calls)[0], err)

/* ---- setup.c: a part of the set-up ----------------------------------------------------------- */

/* Has this process get the signal `sig` when its parent ends, or fails if that has ended already:
 * the signal never comes from a parent that died before it was asked for. In a new PID namespace
 * getppid() tells nothing, so a descriptor of the parent does. Async-signal-safe. */
int un_die_with_parent(int sig, int parent_pidfd, struct un_error *err);

/* ---- membarrier_filter.c: keeping runsc from registering for memory barriers ----------------- */

/* Keeps this process and its descendants from registering for private expedited memory barriers
 * (membarrier(2)): the kernel does nothing, and answers that they are registered. Such a barrier
 * fails with EPERM then, as for everybody who has not registered. For runsc alone. Does nothing
 * where the kernel does not take the filter. Async-signal-safe. */
void un_add_membarrier_filter(void);

/* ---- fds.c: which descriptors a process has, and passes on ----------------------------------- */

/* Makes stdio[0..2] descriptors 0 to 2; -1 leaves one as it is. Async-signal-safe. */
int un_place_stdio(const int stdio[3], struct un_error *err);
/* Closes each of them that is one, and those that have numbers in a row by one call.
 * Async-signal-safe. */
void un_close_each(const int *fd, size_t count);
/* As un_close_fds(), but they are closed by the next exec. Async-signal-safe. */
int un_close_fds_at_exec(const int *keep, size_t keep_count, struct un_error *err);
/* All of them. Async-signal-safe. */
void un_close_all_fds_at_exec(void);
/* Gives this process, and who comes from it by fork and exec, a table that has room for 512
 * descriptors from the start, by a descriptor of no use at its end. Where a process has threads,
 * the kernel lets it wait for a grace period (10 ms and more) when its table grows; gVisor's
 * sandbox puts the command's streams above 255, and closes all that it was not given. If there may
 * not be so many, all stays as it is. Async-signal-safe. */
void un_make_fd_room(void);

/* ---- open_files.c: the limit of descriptors -------------------------------------------------- */

/* Lets this process, and what comes from it by fork and exec, have no more than `most` descriptors
 * each (RLIMIT_NOFILE, getrlimit(2)). A lower limit stays. Async-signal-safe. */
void un_limit_open_files(uint64_t most);

/* ---- null_device.c: opening /dev/null -------------------------------------------------------- */

/* Opens /dev/null with `mode`, such as O_RDWR, close-on-exec. Never waits, and takes nothing but
 * the device: root in the namespaces that this process is in may have mounted anything there, such
 * as a FIFO. -1 with errno; ENODEV: another file. */
int un_open_null(int mode);

/* ---- stdio.c: standard input, output and error of our own ------------------------------------ */

/*
 * Has standard input, output and error, as far as they are pipes or terminals, be open files of our
 * own, which nobody else shares: what is done to their flags then is done to ours alone. One that
 * can't be opened anew, such as a pipe of another user's, stays as it is. Async-signal-safe.
 */
void un_own_stdio(void);

/* ---- message.c: messages over a socket, with descriptors ------------------------------------- */

/* The most descriptors that one carries: a directory in /proc, and all namespaces. */
#define UN_MESSAGE_FDS (1 + UN_NS_COUNT)

/* Sends `size` bytes with `count` descriptors. False with errno: it was not sent as a whole.
 * Async-signal-safe. */
bool un_send(int socket, const void *data, size_t size, const int *fds, size_t count);

/* ---- bare_command.c: starting a command that enters nothing and changes no ids --------------- */

/* Bare: a command that enters no namespace and no root, and keeps ids and capabilities, so that the
 * child may execute it at once. */

bool un_spawn_is_bare(const struct un_spawn *spawn);

/* Starts it, with those signals blocked that we block. A failure of the clone has UN_STEP_CLONE,
 * and no cause. */
int un_spawn_bare(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);

/* What is no matter of namespaces, and is done in a child of any kind before it executes anything.
 * `arg` is a struct un_spawn. Async-signal-safe. */
int un_spawn_prepare(const void *arg, struct un_error *err);

/* ---- pass_on.c: waiting for a child until it ends, and passing signals on to it -------------- */

/* Passes a signal that we got on to the child, which can't have been waited for yet. */
typedef void un_pass_on(pid_t child, const siginfo_t *info, void *arg);

/*
 * By kill(2), unless the child has it already: what the kernel sends to our process group reaches
 * the child too while it is in that group. These are SIGINT, SIGQUIT, SIGTSTP and SIGWINCH from the
 * terminal; SIGTTIN and SIGTTOU, for touching it from the background; and SIGHUP and SIGCONT when
 * the leader of our session ends, or our group is orphaned. But a terminal that hangs up sends
 * SIGHUP and SIGCONT to the leader of the session alone: where that is us, they are passed on. So
 * is all else of the kernel's, such as the SIGALRM of alarm(2): it is for one process only.
 */
un_pass_on un_pass_on_by_kill;

/* A child that is waited for. */
struct un_watched {
    pid_t pid;
    int report;      /* a pipe to write each status of the child to (int), or -1 */
    int reports;     /* if the child is un_be_init(): the other end of its `report`, or -1 */
    bool stopped;    /* whether the command is stopped */
    bool ended;      /* whether the child has ended */
    bool has_status; /* whether the command has ended */
    int wait_status; /* then: how, as waitpid(2) gives it */
};

/*
 * Passes signals on to the child until it ends. All signals must be blocked (un_block_signals()),
 * and SIGCHLD not be ignored. Where the command stops we stop, so that our shell does not take us
 * for running. All other children are waited for as well, as is the duty of process 1: orphans
 * become its children. Process 1 does not stop: nobody waits for that, and the kernel lets it not.
 */
void un_pass_on_until_end(struct un_watched *child, un_pass_on *pass_on, void *arg);

/* Takes the signals that are pending, and forgets them: they were for a child that has ended. */
void un_discard_signals(void);

/* ---- supervise.c: waiting for a command on behalf of whoever waits for us -------------------- */

/* How a command is waited for. Unset: NULL, false or 0. */
struct un_supervision {
    un_pass_on *pass_on;
    void *arg;         /* of pass_on */
    bool has_init;     /* put un_be_init() between us and the child: a new PID namespace waits for
                        * its first process */
    int init_deathsig; /* the signal that process 1 gets when we die */
    int parent_pidfd;  /* out, in the child: of us; -1 below process 1, with which the child dies */
    int wait_status;   /* out, in the parent: how the child ended, as waitpid(2) gives it */
};

/*
 * Forks. Returns 0 in the child. In the parent: passes signals on to the child until it ends, as
 * un_pass_on_until_end() says, and returns its pid, or that of process 1. -1 if there is no child;
 * with has_init also in a process 1 that could start none.
 *
 * A child in the foreground of our terminal may leave that in any mode. Where standard input and
 * output are the terminal, and nobody else is in its foreground, it gets back the mode that it had.
 */
pid_t un_supervise(struct un_supervision *how, struct un_error *err);

#endif
