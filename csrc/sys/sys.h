/* Wrappers of system calls for processes, signals, descriptors, mounts and maps. Internal. */
#ifndef USERNSCTL_SYS_H
#define USERNSCTL_SYS_H

#include "include/usernsctl.h"

#include <sched.h>
#include <signal.h>

/* ---- system calls whose names some libcs lack ------------------------------------------------ */

/* System calls from 424 on have the same number on all architectures. */
enum {
    UN_SYS_PIDFD_SEND_SIGNAL = 424,
    UN_SYS_OPEN_TREE = 428,
    UN_SYS_MOVE_MOUNT = 429,
    UN_SYS_PIDFD_OPEN = 434,
    UN_SYS_CLONE3 = 435,
    UN_SYS_CLOSE_RANGE = 436,
    UN_SYS_MOUNT_SETATTR = 442,
    UN_SYS_LANDLOCK_CREATE_RULESET = 444
};

/* ---- clone.c: starting a child that runs a function ------------------------------------------ */

/* A flag of clone3(2), since Linux 5.7, from linux/sched.h, which can't be included together with
 * sched.h. */
#define UN_CLONE_INTO_CGROUP 0x200000000ULL

struct un_clone {
    uint64_t flags;     /* CLONE_... flags; CLONE_VM requires CLONE_VFORK */
    int (*run)(void *); /* function to run in the child; returns the child's exit status */
    void *arg;
    int cgroup; /* descriptor of the directory of the child's cgroup, with UN_CLONE_INTO_CGROUP */
    int exit_signal; /* signal that the parent receives when the child exits */
    bool is_plain; /* whether to call clone(2) without changing signals; only for a caller that has
                      blocked all signals and has no handlers */
    void *stack; /* with is_plain: top of a separate stack for the child, so that CLONE_VM needs no
                    CLONE_VFORK; or NULL */
    pid_t pid;   /* output: pid of the child */
    int pidfd;   /* output: pidfd of the child, with CLONE_PIDFD */
    uint64_t signals; /* output: signal mask of the caller, which `run` may read */
};

/*
 * Starts a child by clone3(2), or by clone(2) where clone3 is missing (before Linux 5.3, or denied
 * with ENOSYS by a seccomp filter, such as those of container engines). UN_CLONE_INTO_CGROUP exists
 * in clone3 only. The child uses the unused part of the caller's stack, which must be large enough
 * for the child's calls. In the child all signals are blocked and all handlers reset, because a
 * handler of the parent must not run in the child on shared memory. Returns 0, or -1 with errno
 * set. Async-signal-safe.
 */
int un_clone(struct un_clone *clone);

/* Forks this process by clone(2), and returns as fork(2) does. musl's fork(3) calls fork(2) on
 * x86-64, which seccomp filters for programs that use glibc may forbid. For single-threaded
 * programs. Async-signal-safe. */
pid_t un_fork(void);

/* Returns whether clone3(2) exists and no seccomp filter denies it. */
bool un_clone3_works(void);

/* Blocks all signals, including those that libc reserves for itself. Returns the previous signal
 * mask. Async-signal-safe. */
uint64_t un_block_signals(void);
void un_set_signals(uint64_t mask);
/* Returns the signal mask of this thread. Async-signal-safe. */
uint64_t un_signal_mask(void);

/* Resets SIGPIPE and SIGXFSZ, which Python ignores, to the default action. Async-signal-safe. */
void un_restore_signals(void);

/* ---- process.c: other processes, by pidfd, and their wait status ----------------------------- */

/* P_PIDFD of waitid(2), since Linux 5.4. Some libcs lack the name. */
#define UN_BY_PIDFD 3

/* Calls pidfd_open(2), for which older libcs have no wrapper. Returns a pidfd, or -1 with errno
 * set. Async-signal-safe. */
int un_pidfd_open(pid_t pid);

/* Waits until a descriptor is readable. A pidfd is readable once its process has exited. A timeout
 * of -1 waits for ever. Returns 1 if the descriptor is readable, 0 at the timeout, or -1 with errno
 * set. Async-signal-safe. */
int un_wait_readable(int fd, int timeout_ms);

/* Waits until the child to which `pidfd` refers exits, and reaps the child. Returns false if the
 * child's status is lost, because the kernel (if SIGCHLD is ignored) or another thread has already
 * reaped the child. Since Linux 6.15, the pidfd still provides the status of such a child. */
bool un_reap(int pidfd, siginfo_t *how);
/* Returns the signal that has stopped a child, or 0 if the child is not stopped. */
int un_stopped_by(int pidfd);
/* Sends SIGKILL to the process to which `pidfd` refers. */
void un_kill(int pidfd);
/* Kills a child and reaps it as un_reap() does, but gives up after a few seconds, because even
 * SIGKILL does not end a process that waits in the kernel for a user's file system (FUSE). */
bool un_kill_and_reap(int pidfd, siginfo_t *how);

/* Converts a wait status of waitpid(2) to an exit status: the child's own, or 128+N if signal N
 * killed the child. */
int un_exit_status_of(int wait_status);

/* Disables pthread_cancel(3) for this thread, because a cancellation could take effect in a child
 * that shares the memory, or leak a child and descriptors. Returns the state for
 * un_restore_cancel(). */
int un_forbid_cancel(void);
void un_restore_cancel(int state);

/* ---- sigchld.c: waiting for children where the caller ignores SIGCHLD ------------------------ */

/*
 * Calls `run`, a function that starts children and waits for them. If this process ignores SIGCHLD,
 * or has set SA_NOCLDWAIT, the kernel reaps the children and discards their status (wait(2)).
 * Resetting the action of SIGCHLD would affect all threads and their children. So in this case
 * `run` is called in a child process that shares the memory but not the signal actions, while this
 * thread is suspended. In the child process all signals are blocked, and `signals` is the mask of
 * this thread, for programs that `run` starts. Otherwise `run` is called in this process, and
 * `signals` is NULL.
 *
 * Returns the result of `run`: 0, or -1 with err filled in. `run` should do little but system
 * calls.
 */
int un_call_waiting(int (*run)(void *arg, const uint64_t *signals), void *arg,
                    struct un_error *err);

/* Resets SIGCHLD to the default action, for a single-threaded program of this package that waits
 * for children. Stores the previous action in `before`, so that the program can restore it for a
 * command that it executes. */
void un_default_sigchld(struct sigaction *before);

/* ---- jobs.c: running helper programs in parallel and capturing their output ------------------ */

struct un_job {
    const char *const *argv; /* path of the program, and its arguments, terminated by NULL */
    char *output;            /* buffer for the first output_size - 1 bytes of the job's output */
    size_t output_size;
    int input; /* descriptor for the job's standard input; 0 means an empty pipe */
    /* un_run_jobs() stores the results of the job in the following fields. */
    int ended;      /* how the job ended: CLD_EXITED, CLD_KILLED or CLD_DUMPED; 0 if its status is
                       unknown */
    int status;     /* exit status of the job, or the signal that killed it */
    bool timed_out; /* whether the job was killed at the timeout */
    int stopped_by; /* signal that had stopped the job, so that it was killed; 0 if it was not
                       stopped */
    /* un_run_jobs() uses the following fields while the job runs. */
    int pidfd; /* pidfd of the job; -1 after the job has ended */
    int pipe;
    size_t length;
};

/* Runs all jobs in parallel, and waits for them. Returns 0 after all jobs have ended and their
 * results are filled in. Returns -1 if a job could not be started, after killing the jobs that were
 * started. */
int un_run_jobs(struct un_job *jobs, size_t count, int timeout_ms, struct un_error *err);

/* ---- self.c: this process's dumpable attribute, and its directory in /proc ------------------- */

/* Makes this process non-dumpable until the next execve(2) (PR_SET_DUMPABLE(2const)). Another
 * process then needs CAP_SYS_PTRACE in the user namespace in which the program of this process was
 * executed to ptrace this process. A change of credentials may reset the attribute
 * (/proc/sys/fs/suid_dumpable). A process that fails to become non-dumpable must not enter a
 * namespace. Async-signal-safe. */
int un_hide_process(struct un_error *err);

/* Opens /proc/self. Returns a descriptor, or -1 after filling in `err`. Async-signal-safe. */
int un_open_self(struct un_error *err);

/* If `err` has the errno ENOENT, such as for a missing file in /proc, and /proc/self can't be
 * opened either, replaces `err` by the error of un_open_self(). Returns -1. */
int un_blame_missing_proc(struct un_error *err);

/* ---- namespaces.c: the types of namespaces, and joining them --------------------------------- */

/* CLONE_NEWTIME exists since Linux 5.6; some libcs lack the name. */
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* Returns the path of the file of a namespace of type `ns` relative to /proc/PID, such as
 * "ns/user". */
const char *un_ns_file(int ns);

/* Joins the namespace of type `ns` that the descriptor `fd` refers to; does nothing if the
 * descriptor is -1. The process must be non-dumpable, and remains so. Async-signal-safe. */
int un_namespace_join_one(int fd, int ns, struct un_error *err);

/* ---- own_maps.c: writing the maps of this process's new user namespace ----------------------- */

/*
 * The map files in /proc/PID, in the order in which they must be written. An unprivileged process
 * must write "deny" to setgroups before it writes gid_map, and can't write "deny" afterwards
 * (user_namespaces(7), "The /proc/PID/setgroups file").
 */
enum { UN_FILE_SETGROUPS, UN_FILE_UID_MAP, UN_FILE_GID_MAP, UN_MAP_FILES };

#define UN_SETGROUPS_FILE "/proc/PID/setgroups" /* detail of an error about the setgroups file */

struct un_map_file {
    const char *name;   /* path of the file, relative to /proc/PID */
    const char *object; /* path of the file, as it appears in errors */
    enum un_step step;  /* step of an error about this file */
};

extern const struct un_map_file un_map_files[UN_MAP_FILES];

/* Opens a map file of the process whose /proc directory is open as `dir`, for writing. Returns a
 * descriptor, or -1 after filling in `err`. Async-signal-safe. */
int un_map_file_open(int dir, int file, struct un_error *err);
/* Writes `text` to the map file that is open as `fd`, in a single write(2). Async-signal-safe. */
int un_map_file_write(int fd, int file, const char *text, struct un_error *err);

struct un_own_maps {
    const char *policy; /* text to write to setgroups; NULL skips the file */
    const char *map[2]; /* texts to write to uid_map and gid_map, indexed by enum un_kind; NULL
                           skips the file */
    bool is_root;       /* whether this process is uid 0 of the user namespace that it leaves */
};

/* Calls unshare(2) with flags that include CLONE_NEWUSER, and writes the maps of the new user
 * namespace. The process must be non-dumpable. It becomes dumpable only while it opens its three
 * map files, and usually not even then if it is uid 0. Async-signal-safe. */
int un_make_and_map(uint64_t flags, const struct un_own_maps *maps, struct un_error *err);

/* ---- map_files.c: setgroups, uid_map and gid_map of a process -------------------------------- */

/* Fills in `maps` with the maps of a plan that the process writes itself. The texts are stored in
 * `text`. */
void un_own_maps_of(const struct un_plan *plan, char text[2][UN_MAP_TEXT_MAX],
                    struct un_own_maps *maps);

/* Reads whether setgroups(2) is allowed in the user namespace of the process whose /proc directory
 * is open as `dir`. *setgroups becomes UN_SETGROUPS_ALLOW or UN_SETGROUPS_DENY. */
int un_setgroups_read(int dir, int *setgroups, struct un_error *err);

/* ---- filter.c: detecting calls that a seccomp filter forbids -------------------------------- */

enum { UN_PROBE_ARGUMENTS = 6 };

/* A system call to try, with arguments that the kernel rejects or that have no effect. */
struct un_probe_call {
    long number;
    long argument[UN_PROBE_ARGUMENTS];
    const char *name;
    enum un_step step;
    const char *cause; /* id of the cause for the error, if a filter forbids the call */
    bool is_needed;    /* whether a filter also forbids the call by making it fail with an error,
                          without killing the process */
};

struct un_probe_calls {
    const struct un_probe_call *call;
    size_t count; /* number of calls, which must be below 255 */
};

/* The system calls that are needed to start a sandbox, to map subordinate ranges, to run newuidmap
 * and newgidmap, to enter a new user namespace, and to join a namespace. */
extern const struct un_probe_calls un_launch_calls, un_ranges_calls, un_helper_calls,
    un_enter_calls, un_join_calls;

/*
 * Returns whether a seccomp filter forbids one of the system calls `calls`, and fills in `err` if
 * so. The calls are checked in advance for two reasons. A process that a filter kills can't report
 * the cause (seccomp(2), SECCOMP_RET_KILL_PROCESS; systemd's SystemCallFilter= is such a filter by
 * default). After a call that a filter denies with an error, programs such as runsc wait for ever,
 * or report another error. A child tries the calls. A child takes time, so it is started only if
 * this process has a filter.
 */
bool un_filter_forbids(const struct un_probe_calls *calls, struct un_error *err);

/* ---- setup.c: part of the setup inside namespaces -------------------------------------------- */

/* Makes the kernel send `sig` to this process when its parent dies (PR_SET_PDEATHSIG(2const)).
 * Fails if the parent has already died, because the kernel would then never send the signal. The
 * parent is checked by its pidfd, because getppid() returns 0 in a new PID namespace.
 * Async-signal-safe. */
int un_die_with_parent(int sig, int parent_pidfd, struct un_error *err);

/* The processor architecture, as seccomp filters see it (linux/audit.h). */
#if defined(__x86_64__)
#define UN_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define UN_AUDIT_ARCH AUDIT_ARCH_AARCH64
#endif

/* ---- membarrier_filter.c: keeping runsc from registering for memory barriers ----------------- */

/* Installs a seccomp filter for runsc, which makes membarrier(2) with
 * MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED return 0 without registering this process or its
 * descendants. Private expedited barriers then fail with EPERM, as without registration. Does
 * nothing if the kernel rejects the filter. Async-signal-safe. */
void un_add_membarrier_filter(void);

/* ---- fds.c: closing descriptors and passing them on ------------------------------------------ */

/* Duplicates the descriptors stdio[0..2] to the descriptors 0 to 2; -1 keeps the current
 * descriptor. Async-signal-safe. */
int un_place_stdio(const int stdio[3], struct un_error *err);
/* Closes all descriptors of an array except elements that are -1, with one call of close_range(2)
 * for each run of consecutive numbers. Async-signal-safe. */
void un_close_each(const int *fd, size_t count);
/* Sorts descriptors for un_close_fds(), and removes duplicates. Returns the number of remaining
 * descriptors. */
size_t un_sort_fds(int *fds, size_t count);
/* Sets close-on-exec on the descriptors that un_close_fds() would close. Async-signal-safe. */
int un_close_fds_at_exec(const int *keep, size_t keep_count, struct un_error *err);
/* Sets close-on-exec on all descriptors. Async-signal-safe. */
void un_close_all_fds_at_exec(void);
/* Grows the descriptor table of this process, and so of its descendants, to 512 entries, by opening
 * an unused descriptor at the end, which gVisor closes. Without this call, gVisor's sandbox process
 * would have to grow its table, because it duplicates the command's stdio to numbers above 255. If
 * the table of a process with threads grows, the kernel waits for an RCU grace period (10 ms and
 * more). Does nothing if RLIMIT_NOFILE is lower. Async-signal-safe. */
void un_make_fd_room(void);

/* ---- open_files.c: the limit of descriptors -------------------------------------------------- */

/* Lowers RLIMIT_NOFILE (getrlimit(2)) of this process and its descendants to `most`. Does not raise
 * a lower limit. Returns 0, or -1 with errno set. Async-signal-safe. */
int un_limit_open_files(uint64_t most);

/* ---- processors.c: the processors on which this process may run ------------------------------ */

/* Returns the number of processors on which this process may run, or UINT64_MAX if that can't be
 * read. Async-signal-safe. */
uint64_t un_processors(void);
/* Restricts this thread and its descendants to `count` of its processors (sched_setaffinity(2)).
 * Does nothing if the kernel denies the change. Async-signal-safe. */
void un_use_processors(uint64_t count);

/* ---- null_device.c: opening /dev/null -------------------------------------------------------- */

/* Opens /dev/null with `mode`, such as O_RDWR, close-on-exec. Never blocks, and accepts only the
 * null device, because root in the namespaces of this process may have mounted another file there,
 * such as a FIFO. Returns a descriptor, or -1 with errno set, which is ENODEV if the file is not
 * the null device. */
int un_open_null(int mode);
/* Opens /dev/null as each of the descriptors 0 to 2 that is closed, so that files opened later do
 * not get these numbers. The opened descriptors are not close-on-exec. Returns 0, or -1 with errno
 * set. */
int un_fill_stdio(void);

/* ---- stdio.c: private open file descriptions for standard input, output and error ------------ */

/*
 * Reopens standard input, output and error, if they are pipes or terminals, so that no other
 * process shares the open file descriptions. Changes of status flags (O_NONBLOCK) of these
 * descriptors then affect this process only. A descriptor that can't be reopened, such as another
 * user's pipe, is left unchanged. Async-signal-safe.
 */
void un_own_stdio(void);

/* ---- message.c: messages with descriptors over a socket -------------------------------------- */

/* The maximum number of descriptors in a message: one descriptor of a /proc directory, and one per
 * namespace. */
#define UN_MESSAGE_FDS (1 + UN_NS_COUNT)

/* Sends a message of `size` bytes with `count` descriptors. Returns false with errno set unless
 * everything was sent. Async-signal-safe. */
bool un_send(int socket, const void *data, size_t size, const int *fds, size_t count);

/* Receives a message of at most `size` bytes that has either `count` descriptors (at most
 * UN_MESSAGE_FDS) or none, and sets *got to the number of its descriptors. Returns the number of
 * bytes, 0 at the end of the messages, or -1 with errno set, which is EBADMSG for any other number
 * of descriptors. */
ssize_t un_receive(int socket, void *data, size_t size, int *fds, size_t count, size_t *got);

/* ---- bare_command.c: starting a command in the caller's namespaces --------------------------- */

/* Returns whether a command is bare: it enters no namespace and no root directory, and keeps the
 * ids and capabilities, so that the child can execute the command directly. */

bool un_spawn_is_bare(const struct un_spawn *spawn);

/* Starts a bare command. If spawn->signals is NULL, the command has the caller's signal mask. If
 * the child can't be created, the error has UN_STEP_CLONE and no cause. */
int un_spawn_bare(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);

/* Sets up stdio, umask, session, process group and close-on-exec in a child that is about to
 * execute a program. `arg` is a struct un_spawn. Async-signal-safe. */
int un_spawn_prepare(const void *arg, struct un_error *err);

/* ---- pass_on.c: waiting for a child and forwarding signals to it ----------------------------- */

/* A function that forwards to `child` a signal that this process has received. The function may
 * signal the child by its pid, because the child has not been reaped yet. */
typedef void un_pass_on(pid_t child, const siginfo_t *info, void *arg);

/*
 * Forwards a signal by kill(2), unless the kernel has sent the same signal to the child, because
 * the child is in this process's group. The kernel signals an entire group by SIGINT, SIGQUIT,
 * SIGTSTP and SIGWINCH from the terminal; by SIGTTIN and SIGTTOU on access from the background; and
 * by SIGHUP and SIGCONT when the session leader exits or the group is orphaned. After a hangup of
 * the terminal, the kernel sends SIGHUP and SIGCONT to the session leader only, so these two
 * signals are forwarded if this process is the leader. Other signals from the kernel, such as
 * SIGALRM of alarm(2), go to a single process and are forwarded.
 */
un_pass_on un_pass_on_by_kill;

/* A check that is performed before each wait for a signal. `check` returns the time in milliseconds
 * until `check` must be called again, or -1 if it need not be called again before a signal or an
 * event. */
struct un_checkup {
    int (*check)(pid_t child, void *arg);
    void *arg;
    int fd;      /* descriptor whose events (POLLPRI) end the wait for a signal; -1 for none */
    int signals; /* signalfd for all signals (un_open_signals()), if `fd` is not -1 */
};

/* Opens a nonblocking signalfd for all signals. Returns a descriptor, or -1 with errno set. */
int un_open_signals(void);

/* A child that un_pass_on_until_end() waits for, and its state. */
struct un_watched_child {
    pid_t pid;
    const struct un_checkup *checkup; /* check before each wait for a signal; NULL for none */
    int report;   /* pipe to which each wait status of the child is written (an int); -1 for none */
    int reports;  /* read end of the pipe to which un_be_init() reports; -1 if the child does not
                     call un_be_init() */
    bool stopped; /* whether the command is stopped */
    bool ended;   /* whether the child has exited */
    bool has_status; /* whether the command has exited */
    int wait_status; /* wait status of the command, as of waitpid(2), if has_status is set */
};

/*
 * Forwards signals to the child until it exits. All signals must be blocked (un_block_signals()),
 * and SIGCHLD must not be ignored. When the command stops, this process stops itself, so that the
 * shell notices. All other children are reaped too, because orphans are reparented to PID 1. If
 * this process is PID 1, it does not stop itself, because no process waits for a stop of PID 1, and
 * the kernel ignores SIGSTOP for PID 1.
 */
void un_pass_on_until_end(struct un_watched_child *child, un_pass_on *pass_on, void *arg);

/* Returns whether a signal is SIGHUP, SIGINT, SIGQUIT or SIGTERM, with which users end programs. */
bool un_is_terminating(int sig);

/* Discards all pending signals, which were meant for a child that has exited. Returns whether a
 * terminating signal was among them. */
bool un_discard_signals(void);

/* ---- supervise.c: waiting for a command on behalf of this process's parent ------------------- */

/* Parameters and results of un_supervise(). Unset parameters are NULL, false or 0. */
struct un_supervision {
    un_pass_on *pass_on;
    void *arg;                        /* argument for pass_on */
    const struct un_checkup *checkup; /* check while this process waits for the child, or NULL */
    bool has_init; /* whether to run un_be_init() as PID 1 between this process and the child, for a
                      new PID namespace */
    int init_deathsig; /* signal that PID 1 receives when this process dies; 0 for none */
    int parent_pidfd;  /* output in the child: pidfd of the parent; -1 with has_init, because the
                          child dies with PID 1 */
    int wait_status;   /* output in the parent: wait status of the child, as of waitpid(2) */
    bool is_terminated_late; /* output in the parent: whether a terminating signal arrived after the
                                child had exited */
};

/*
 * Forks a child and waits for it. Returns 0 in the child. In the parent, forwards signals to the
 * child until it exits, as un_pass_on_until_end() does, and returns the pid of the child, or of PID
 * 1 with has_init. Returns -1 if fork(2) fails; with has_init, returns -1 in PID 1, too, if the
 * fork(2) of PID 1 fails.
 *
 * A child in the foreground of the terminal may leave the terminal in any mode. If standard input
 * and output are the terminal, and no other process group is in the foreground, restores the mode
 * that the terminal had before the fork.
 */
pid_t un_supervise(struct un_supervision *how, struct un_error *err);

#endif
