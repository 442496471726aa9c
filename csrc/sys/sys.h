/* Wrappers of system calls for processes, signals, descriptors, mounts and maps. Internal. */
#ifndef USERNSCTL_SYS_H
#define USERNSCTL_SYS_H

#include "include/usernsctl.h"

#include <sched.h>
#include <signal.h>

/* ---- system calls whose names some libcs lack ------------------------------------------------ */

/* From number 424 on, system calls have the same number on all architectures. */
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

/* CLONE_INTO_CGROUP of clone3(2), since Linux 5.7. Defined here, because linux/sched.h, which
 * defines it, can't be included together with sched.h. */
#define UN_CLONE_INTO_CGROUP 0x200000000ULL

struct un_clone {
    uint64_t flags;     /* CLONE_... flags; CLONE_VM requires CLONE_VFORK, except with `stack` */
    int (*run)(void *); /* called by the child, which exits with the result */
    void *arg;
    int cgroup;      /* directory descriptor of the child's cgroup, with UN_CLONE_INTO_CGROUP */
    int exit_signal; /* signal for the parent when the child exits; 0 for none */
    bool is_plain;   /* whether to use clone(2) and leave all signals as they are; requires that the
                        caller has blocked all signals and has no handlers */
    void *stack; /* NULL, or with is_plain the top of a stack for the child; with a stack, CLONE_VM
                    needs no CLONE_VFORK */
    pid_t pid;   /* output: the child's pid */
    int pidfd;   /* output: the child's pidfd, with CLONE_PIDFD */
    uint64_t signals; /* output: the caller's signal mask, which `run` may read in the child */
};

/*
 * Starts a child by clone3(2). Uses clone(2) instead if is_plain is set, if clone3(2) is missing
 * (before Linux 5.3), or if a seccomp filter denies clone3(2), as the filters of container engines
 * do. UN_CLONE_INTO_CGROUP requires clone3(2). Returns 0, or -1 with errno set. Async-signal-safe.
 *
 * Without `stack`, the child uses the caller's stack below the current frame, where there must be
 * enough room for the calls of the child. Unless is_plain is set, all signals are blocked and all
 * handlers are reset in the child, because a handler of the parent must not run in a child that
 * shares the parent's memory.
 */
int un_clone(struct un_clone *clone);

/* Forks this process by clone(2). Returns as fork(2) does. musl's fork() makes the system call fork
 * on x86-64, which a seccomp filter written for glibc may deny. For single-threaded
 * programs. Async-signal-safe. */
pid_t un_fork(void);

/* Returns whether clone3(2) exists and is not denied by a seccomp filter. */
bool un_clone3_works(void);

/* Blocks all signals, even those that libc reserves for itself. Returns the previous signal mask.
 * Async-signal-safe. */
uint64_t un_block_signals(void);
void un_set_signals(uint64_t mask);
/* Returns the signal mask of this thread. Async-signal-safe. */
uint64_t un_signal_mask(void);

/* Resets SIGPIPE and SIGXFSZ, which Python ignores, to the default action. Async-signal-safe. */
void un_restore_signals(void);

/* ---- process.c: waiting for processes and killing them, by pidfd ----------------------------- */

/* P_PIDFD of waitid(2), since Linux 5.4. Some libcs lack it. */
#define UN_BY_PIDFD 3

/* Calls pidfd_open(2), for which some libcs lack a wrapper. Returns a pidfd, or -1 with errno set.
 * Async-signal-safe. */
int un_pidfd_open(pid_t pid);

/* Waits until a descriptor is readable; a pidfd is readable once its process has exited. A
 * timeout_ms of -1 waits for ever. Returns 1 if the descriptor is readable, 0 if the timeout has
 * expired, or -1 with errno set. Async-signal-safe. */
int un_wait_readable(int fd, int timeout_ms);

/* Waits for the exit of the child to which `pidfd` refers, and reaps the child. Returns false if
 * the status of the child is lost, because another thread has reaped the child, or the kernel has
 * done so because SIGCHLD is ignored. Since Linux 6.15, a pidfd provides the status even then. */
bool un_reap(int pidfd, siginfo_t *how);
/* Returns the signal that has stopped a child, or 0 if the child is not stopped. */
int un_stopped_by(int pidfd);
/* Sends SIGKILL to the process to which `pidfd` refers. */
void un_kill(int pidfd);
/* Kills a child, and reaps the child as un_reap() does. Gives up after two seconds, because even
 * SIGKILL does not kill a process that waits for a user's FUSE filesystem. */
bool un_kill_and_reap(int pidfd, siginfo_t *how);

/* Converts the wait status of a child (waitpid(2)) to an exit status, which is 128+N if signal N
 * killed the child. */
int un_exit_status_of(int wait_status);

/* Disables pthread_cancel(3) for this thread. A cancellation could take effect in a child that
 * shares this memory, or leak a child or descriptors. Returns the state for un_restore_cancel(). */
int un_forbid_cancel(void);
void un_restore_cancel(int state);

/* ---- sigchld.c: waiting for children even if the caller ignores SIGCHLD ---------------------- */

/*
 * Calls `run`, a function that starts children and waits for them, and that should do little but
 * system calls. Returns the result of `run`: 0, or -1 with `err` filled in.
 *
 * If this process ignores SIGCHLD or uses SA_NOCLDWAIT, the kernel reaps all children and discards
 * their statuses (wait(2)). Resetting the action of SIGCHLD would affect all threads and their
 * children. In this case, `run` is called in a child process that shares this memory, but not the
 * signal actions, while this thread is suspended. All signals are blocked in that process, and
 * `signals` is the mask of this thread, for the programs that `run` starts. Otherwise `run` is
 * called in this process, and `signals` is NULL.
 */
int un_call_waiting(int (*run)(void *arg, const uint64_t *signals), void *arg,
                    struct un_error *err);

/* Resets the action of SIGCHLD to the default, in a single-threaded program of this package that
 * waits for children. Stores the previous action in `before`, so that the program can restore it
 * for a command. */
void un_default_sigchld(struct sigaction *before);

/* ---- jobs.c: running programs in parallel and capturing their output ------------------------- */

struct un_job {
    const char *const *argv; /* path of the program and its arguments, terminated by NULL */
    char *output;            /* buffer for the first output_size - 1 bytes of the job's output */
    size_t output_size;
    int input; /* descriptor that becomes standard input; 0 for an empty pipe */
    /* The following fields are the results of the job, set by un_run_jobs(). */
    int ended;      /* CLD_EXITED, CLD_KILLED or CLD_DUMPED; 0 if it is unknown how the job ended */
    int status;     /* exit status of the job, or the number of the signal that killed it */
    bool timed_out; /* whether the job was killed because of the timeout */
    int stopped_by; /* signal that had stopped the job when it was killed; 0 if it was not stopped
                     */
    /* The following fields are only used while the job runs. */
    int pidfd; /* pidfd of the job; -1 once it has ended */
    int pipe;
    size_t length;
};

/* Runs jobs in parallel. Returns 0 once all of them have ended and their results are filled in. If
 * a job can't be started, kills the jobs that were started, and returns -1. */
int un_run_jobs(struct un_job *jobs, size_t count, int timeout_ms, struct un_error *err);

/* ---- self.c: this process's dumpable attribute, and its directory in /proc ------------------- */

/* Makes this process non-dumpable until its next execve(2) (PR_SET_DUMPABLE(2const)). To ptrace it,
 * another process then needs CAP_SYS_PTRACE in the user namespace in which this process's program
 * was executed. A change of credentials may reset the dumpable attribute
 * (/proc/sys/fs/suid_dumpable). If this function fails, the process must not enter a namespace.
 * Async-signal-safe. */
int un_hide_process(struct un_error *err);

/* Opens /proc/self. Returns a descriptor. On failure, fills in `err` and returns -1.
 * Async-signal-safe. */
int un_open_self(struct un_error *err);

/* If the errno of `err` is ENOENT, as for a missing file in /proc, and /proc/self can't be opened
 * either, replaces `err` by the error of opening /proc/self. Returns -1. */
int un_blame_missing_proc(struct un_error *err);

/* ---- namespaces.c: the types of namespaces, and joining them --------------------------------- */

/* CLONE_NEWTIME, since Linux 5.6. Some libcs lack it. */
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* Returns the path of the file of a namespace relative to /proc/PID, such as "ns/user". `ns` is its
 * type (enum un_ns). */
const char *un_ns_file(int ns);

/* Joins a namespace of the type `ns`, of which `fd` is a descriptor. Does nothing if `fd` is -1.
 * The process must be non-dumpable, and stays so. Async-signal-safe. */
int un_namespace_join_one(int fd, int ns, struct un_error *err);

/* ---- own_maps.c: writing the maps of this process's new user namespace ----------------------- */

/*
 * The files of /proc/PID that define the id maps of a user namespace, in the order in which they
 * must be written. An unprivileged process must write "deny" to setgroups before it writes gid_map;
 * after gid_map, the kernel no longer accepts "deny" (user_namespaces(7), "The /proc/PID/setgroups
 * file").
 */
enum { UN_FILE_SETGROUPS, UN_FILE_UID_MAP, UN_FILE_GID_MAP, UN_MAP_FILES };

#define UN_SETGROUPS_FILE "/proc/PID/setgroups" /* name of the setgroups file in errors */

struct un_map_file {
    const char *name;   /* path of the file in /proc/PID */
    const char *object; /* name of the file in errors */
    enum un_step step;  /* step (enum un_step) of an error about this file */
};

extern const struct un_map_file un_map_files[UN_MAP_FILES];

/* Opens a map file for writing, in the /proc directory that is open as `dir`. Returns a descriptor.
 * On failure, fills in `err` and returns -1. Async-signal-safe. */
int un_map_file_open(int dir, int file, struct un_error *err);
/* Writes `text` in a single write(2) to a map file, which is open as `fd`. Async-signal-safe. */
int un_map_file_write(int fd, int file, const char *text, struct un_error *err);

struct un_own_maps {
    const char *policy; /* content to write to setgroups; NULL skips the file */
    const char *map[2]; /* contents to write to uid_map and gid_map, indexed by enum un_kind; NULL
                           skips a file */
    bool is_root;       /* whether this process is uid 0 in the user namespace that it leaves */
};

/* Calls unshare(2) with `flags`, which must include CLONE_NEWUSER, and writes the maps of the new
 * user namespace. The process must be non-dumpable. The process is dumpable only while it opens the
 * three map files, and usually not even then if its uid is 0. Async-signal-safe. */
int un_make_and_map(uint64_t flags, const struct un_own_maps *maps, struct un_error *err);

/* ---- map_files.c: writing and reading setgroups, uid_map and gid_map of a process ------------ */

/* Fills in `maps` for a process that writes maps itself: the maps of `plan` with UN_WRITER_SELF,
 * and the setgroups policy of `plan`. Stores the contents of the map files in `text`. */
void un_own_maps_of(const struct un_plan *plan, char text[2][UN_MAP_TEXT_MAX],
                    struct un_own_maps *maps);

/* Reads the file setgroups in the /proc directory that is open as `dir`, that is, whether
 * setgroups(2) is allowed in the user namespace of that process. *setgroups becomes
 * UN_SETGROUPS_ALLOW or UN_SETGROUPS_DENY. */
int un_setgroups_read(int dir, int *setgroups, struct un_error *err);

/* ---- filter.c: detecting system calls that a seccomp filter forbids -------------------------- */

enum { UN_PROBE_ARGUMENTS = 6 };

/* A system call that a child tries, to detect whether a seccomp filter forbids it. The call changes
 * nothing: the kernel rejects its arguments, or the call has no effect. */
struct un_probe_call {
    long number;
    long argument[UN_PROBE_ARGUMENTS];
    const char *name;
    enum un_step step;
    const char *cause; /* id of the cause to report if a filter forbids the call */
    bool is_needed; /* whether the call also counts as forbidden if a filter makes it fail with an
                       error, instead of killing the process */
};

struct un_probe_calls {
    const struct un_probe_call *call;
    size_t count; /* number of calls, less than 255 */
};

/* The system calls for starting a sandbox, for reading subordinate ranges, for running newuidmap
 * and newgidmap, for entering a new user namespace, and for joining namespaces. */
extern const struct un_probe_calls un_launch_calls, un_ranges_calls, un_helper_calls,
    un_enter_calls, un_join_calls;

/*
 * Returns whether a seccomp filter forbids one of `calls`. If so, fills in `err`.
 *
 * System calls are tried in advance for two reasons. A filter may kill the caller, as systemd's
 * SystemCallFilter= does by default, and a killed process can't report the cause (seccomp(2),
 * SECCOMP_RET_KILL_PROCESS). And if a filter returns an error instead, a program such as runsc may
 * wait for ever or report something else.
 *
 * A child tries the calls. Because this takes time, no call is tried if this process has no filter.
 */
bool un_filter_forbids(const struct un_probe_calls *calls, struct un_error *err);
/* Fails if a seccomp filter forbids one of `calls`, or if there is a filter, but no child can be
 * created to try the calls (process-limit). For callers that can't continue without a child
 * anyway. */
int un_filter_check(const struct un_probe_calls *calls, struct un_error *err);

/* ---- setup.c: the parent-death signal -------------------------------------------------------- */

/* Makes the kernel send the signal `sig` to this process when its parent dies
 * (PR_SET_PDEATHSIG(2const)). Fails if the parent has died already, because the signal would then
 * never be sent. `parent_pidfd` shows whether the parent has died. getppid(2) does not show that in
 * a new PID namespace, where it returns 0. Async-signal-safe. */
int un_die_with_parent(int sig, int parent_pidfd, struct un_error *err);

/* The architecture of this program, as seccomp filters see it (struct seccomp_data,
 * linux/audit.h). */
#if defined(__x86_64__)
#define UN_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define UN_AUDIT_ARCH AUDIT_ARCH_AARCH64
#endif

/* ---- membarrier_filter.c: preventing runsc from registering for membarrier(2) ---------------- */

/* Installs a seccomp filter for runsc. With the filter, the command
 * MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED of membarrier(2) returns 0, but does not register this
 * process or its descendants, so their private expedited membarriers fail with EPERM. Does nothing
 * if the kernel rejects the filter. Async-signal-safe. */
void un_add_membarrier_filter(void);

/* ---- fds.c: closing descriptors and passing them on ------------------------------------------ */

/* Duplicates stdio[0] to stdio[2] to the descriptors 0 to 2. -1 leaves a descriptor as it is.
 * Async-signal-safe. */
int un_place_stdio(const int stdio[3], struct un_error *err);
/* Closes the descriptors in an array, apart from elements that are -1. Calls close_range(2) once
 * for each run of consecutive numbers. Async-signal-safe. */
void un_close_each(const int *fd, size_t count);
/* Sorts descriptors for un_close_fds() and removes duplicates. Returns the number of remaining
 * descriptors. */
size_t un_sort_fds(int *fds, size_t count);
/* Sets close-on-exec on the descriptors that un_close_fds() would close. Async-signal-safe. */
int un_close_fds_at_exec(const int *keep, size_t keep_count, struct un_error *err);
/* Sets close-on-exec on all descriptors. Async-signal-safe. */
void un_close_all_fds_at_exec(void);
/*
 * Grows the descriptor table of this process to 512 entries, by opening an unused descriptor, which
 * gVisor closes. Descendants inherit the size of the table.
 *
 * gVisor's sandbox process duplicates the command's stdio to numbers above 255. The table of that
 * process would otherwise grow when the process already has threads, and the kernel would then wait
 * for an RCU grace period (10 ms and more). Does nothing if RLIMIT_NOFILE is lower.
 * Async-signal-safe.
 */
void un_make_fd_room(void);

/* ---- open_files.c: lowering the limit of open descriptors ------------------------------------ */

/* Lowers RLIMIT_NOFILE (getrlimit(2)) to `most`, for this process and its descendants. Leaves a
 * lower limit unchanged. Returns 0, or -1 with errno set. Async-signal-safe. */
int un_limit_open_files(uint64_t most);

/* ---- processors.c: the processors on which this process may run ------------------------------ */

/* Returns the number of processors on which this process may run, or UINT64_MAX if it can't be
 * determined. Async-signal-safe. */
uint64_t un_processors(void);
/* Restricts this thread and its descendants to `count` of the processors on which it may run
 * (sched_setaffinity(2)). Does nothing if the kernel denies that. Async-signal-safe. */
void un_use_processors(uint64_t count);

/* ---- null_device.c: opening /dev/null -------------------------------------------------------- */

/* Opens /dev/null with the flags `mode`, such as O_RDWR, and close-on-exec. Root in the namespaces
 * of this process may have mounted another file on /dev/null, such as a FIFO. So this function
 * never blocks, and fails with ENODEV unless the file is the null device. Returns a descriptor, or
 * -1 with errno set. */
int un_open_null(int mode);
/* Opens /dev/null as each of the descriptors 0 to 2 that is closed, so that no other file gets
 * these numbers. Does not set close-on-exec. Returns 0, or -1 with errno set. */
int un_fill_stdio(void);

/* ---- stdio.c: making the open file descriptions of stdio private ----------------------------- */

/*
 * Reopens standard input, output and error if they are pipes or terminals. The open file
 * descriptions are then private to this process, and so are the status flags, such as O_NONBLOCK.
 * Leaves a descriptor unchanged if the file can't be reopened, such as another user's pipe.
 * Async-signal-safe.
 */
void un_own_stdio(void);

/* ---- message.c: sending and receiving messages with descriptors ------------------------------ */

/* Maximum number of descriptors in a message: a /proc directory, and a namespace of each type. */
#define UN_MESSAGE_FDS (1 + UN_NS_COUNT)

/* Sends a message of `size` bytes with `count` descriptors. Returns false with errno set unless the
 * whole message was sent. Async-signal-safe. */
bool un_send(int socket, const void *data, size_t size, const int *fds, size_t count);

/* Receives a message of at most `size` bytes, which must contain either no descriptors or `count`
 * descriptors (at most UN_MESSAGE_FDS), and stores the number of descriptors in *got. Returns the
 * number of bytes, 0 at end of file, or -1 with errno set: EBADMSG for any other number of
 * descriptors. */
ssize_t un_receive(int socket, void *data, size_t size, int *fds, size_t count, size_t *got);

/* ---- bare_command.c: starting a command in the caller's namespaces --------------------------- */

/* Returns whether a command is bare: it keeps the namespaces, the root directory, the ids and the
 * capabilities of the caller, so that the child can execute it directly. */

bool un_spawn_is_bare(const struct un_spawn *spawn);

/* Starts a bare command. If spawn->signals is NULL, the command has the caller's signal mask. If
 * the child can't be created, the error has the step UN_STEP_CLONE and no cause. */
int un_spawn_bare(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);

/* Sets stdio, umask, session, process group and close-on-exec in a child before it executes a
 * program. `arg` is a struct un_spawn. Async-signal-safe. */
int un_spawn_prepare(const void *arg, struct un_error *err);

/* ---- pass_on.c: waiting for a child and forwarding signals to it ----------------------------- */

/* A function that forwards a signal of this process to `child`. The child has not been reaped yet,
 * so the function may use its pid. */
typedef void un_pass_on(pid_t child, const siginfo_t *info, void *arg);

/*
 * Forwards a signal by kill(2), unless the kernel has already sent it to the child, because the
 * child is in the process group of this process.
 *
 * The kernel sends a signal to a whole process group in these cases: SIGINT, SIGQUIT, SIGTSTP and
 * SIGWINCH from the terminal; SIGTTIN and SIGTTOU for access from the background; SIGHUP and
 * SIGCONT when the session leader exits or the process group is orphaned. When a terminal hangs up,
 * only the session leader gets SIGHUP and SIGCONT, so they are forwarded if this process is the
 * session leader. Other signals of the kernel, such as SIGALRM of alarm(2), go to a single process
 * and are forwarded.
 */
un_pass_on un_pass_on_by_kill;

/* A check that un_pass_on_until_end() makes before each wait for a signal. `check` returns the time
 * in milliseconds until its next call is due, or -1 if no call is due before the next signal or
 * event. */
struct un_checkup {
    int (*check)(pid_t child, void *arg);
    void *arg;
    int fd;      /* descriptor whose events (POLLPRI) also end the wait for a signal; -1 for none */
    int signals; /* signalfd from un_open_signals(); needed only if `fd` is not -1 */
};

/* Opens a nonblocking signalfd(2) for all signals. Returns a descriptor, or -1 with errno set. */
int un_open_signals(void);

/* A child for which un_pass_on_until_end() waits, and its state. */
struct un_watched_child {
    pid_t pid;
    const struct un_checkup *checkup; /* check before each wait for a signal; NULL for none */
    int report;  /* pipe to which un_pass_on_until_end() writes each wait status of the child, as an
                    int; -1 for none */
    int reports; /* if the child is PID 1, read end of the pipe to which un_be_init() writes the
                    command's wait statuses; -1 if the child is the command itself */
    bool stopped;    /* whether the command is stopped */
    bool ended;      /* whether the child has exited */
    bool has_status; /* whether the command has exited */
    int wait_status; /* wait status of the command (waitpid(2)), if has_status is set */
};

/* Forwards signals to the child until the child exits. All signals must be blocked
 * (un_block_signals()), and SIGCHLD must not be ignored. When the command stops, this process stops
 * itself, so that the shell notices the stop. Only PID 1 of a PID namespace does not stop itself,
 * because the kernel ignores a SIGSTOP that PID 1 sends to itself, and no process waits for that
 * stop. Also reaps all other children, because orphans become children of PID 1. */
void un_pass_on_until_end(struct un_watched_child *child, un_pass_on *pass_on, void *arg);

/* Returns whether a signal requests termination, that is, is SIGHUP, SIGINT, SIGQUIT or SIGTERM. */
bool un_is_terminating(int sig);
/* Returns whether this process ignores a signal. */
bool un_is_ignored(int sig);

/* Discards the pending signals, which were meant for a child that has already exited. Returns
 * whether a terminating signal was among them. */
bool un_discard_signals(void);

/* ---- supervise.c: waiting for a command on behalf of this process's parent ------------------- */

/* Parameters and results of un_supervise(). NULL, false or 0 leaves a parameter unset. */
struct un_supervision {
    un_pass_on *pass_on;
    void *arg;                        /* argument for pass_on */
    const struct un_checkup *checkup; /* check before each wait for a signal; NULL for none */
    bool has_init;     /* whether to create PID 1 of a new PID namespace, which forks the child and
                          calls un_be_init() */
    int init_deathsig; /* signal that PID 1 receives when this process dies; 0 for none */
    int parent_pidfd;  /* output in the child: pidfd of the child's parent, to detect the parent's
                          exit; -1 with has_init, because the child can't outlive PID 1 */
    int wait_status;   /* output in the parent: wait status of the child (waitpid(2)) */
    bool is_terminated_late; /* output in the parent: whether a terminating signal arrived after the
                                exit of the child */
};

/*
 * Forks a child and waits for its exit. Returns 0 in the child. In the parent, forwards signals to
 * the child until the child exits (un_pass_on_until_end()), and then returns the pid of the child,
 * or of PID 1 with has_init. Returns -1 if fork(2) fails; with has_init, also returns -1 in PID 1
 * if the fork(2) of PID 1 fails.
 *
 * A child in the foreground of the terminal may leave the terminal in any mode. If standard input
 * and output are the terminal, and the terminal's foreground process group is that of this process
 * or no longer exists, restores the mode that the terminal had before the fork.
 */
pid_t un_supervise(struct un_supervision *how, struct un_error *err);

#endif
