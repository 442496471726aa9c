/*
 * usernsctl: creating and mapping user namespaces without privileges.
 *
 * This header is the whole interface of the core, and internal to the wheel: only the Python
 * package and the programs of the package include it, so it may change with each release. The
 * Python binding parses this file, so the declarations are limited to what cffi understands:
 * numbers, structs, enums and functions.
 *
 * Conventions
 * - A function that can fail returns 0 on success, or -1 after filling in the struct un_error that
 *   is its last argument. No function prints, exits, or keeps state between calls.
 * - "Async-signal-safe" is meant as in signal-safety(7): the function neither allocates nor locks,
 *   so it may run in a child that still shares its parent's memory.
 * - Descriptors that a function opens are close-on-exec.
 * - Rules of the kernel are those of user_namespaces(7); rules that some kernels lack are marked
 *   with the kernel version.
 */
#ifndef USERNSCTL_H
#define USERNSCTL_H

/* The tests run on these two processors only, and gVisor supports no others. */
#if !defined(__LP64__) || !(defined(__x86_64__) || defined(__AARCH64EL__))
#error "usernsctl supports x86-64 and AArch64 only"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- errors (base/error.c, explain/) --------------------------------------------------------- */

#define UN_DETAIL_MAX 512

/* Steps of the setup at which something can fail. */
enum un_step {
    UN_STEP_NONE,
    UN_STEP_ARGUMENT,    /* an invalid request */
    UN_STEP_FACTS,       /* reading the ids, the capabilities and the namespace of the caller */
    UN_STEP_SUBID,       /* reading the subordinate id ranges */
    UN_STEP_PLAN,        /* choosing the maps and their writers */
    UN_STEP_CLONE,       /* clone3(2) */
    UN_STEP_CGROUP,      /* starting a process in another control group */
    UN_STEP_UNSHARE,     /* creating a namespace */
    UN_STEP_SETNS,       /* joining a namespace */
    UN_STEP_SETGROUPS,   /* writing /proc/PID/setgroups, or setgroups(2) */
    UN_STEP_UID_MAP,     /* writing /proc/PID/uid_map */
    UN_STEP_GID_MAP,     /* writing /proc/PID/gid_map */
    UN_STEP_HELPER,      /* newuidmap or newgidmap */
    UN_STEP_PROPAGATION, /* mount propagation */
    UN_STEP_MOUNT,       /* mount(2) */
    UN_STEP_ROOT,        /* chroot(2) */
    UN_STEP_CWD,         /* chdir(2) */
    UN_STEP_SETRESGID,
    UN_STEP_SETRESUID,
    UN_STEP_CAPABILITIES,
    UN_STEP_SESSION,
    UN_STEP_PDEATHSIG,
    UN_STEP_STDIO,   /* preparing standard input, output and error */
    UN_STEP_FDS,     /* passing and closing descriptors */
    UN_STEP_LOOKUP,  /* searching PATH for the command */
    UN_STEP_EXEC,    /* execve(2) of the command */
    UN_STEP_WAIT,    /* waiting for a child */
    UN_STEP_LAUNCH,  /* parsing a launch */
    UN_STEP_SANDBOX, /* creating the files of a sandbox */
    UN_STEP_ROOTFS,  /* building the root filesystem of a sandbox */
    UN_STEP_HOME,    /* hiding a home directory in the root filesystem */
    UN_STEP_BIND,    /* bind-mounting a file into the root filesystem */
    UN_STEP_CONFIG,  /* writing config.json of a sandbox */
    UN_STEP_RUNSC,   /* executing the program that starts runsc */
    UN_STEP_NETWORK, /* making the network of a sandbox */
    UN_STEP_USER,    /* finding the user of a command in the files of the sandbox */
    UN_STEP_COUNT
};

struct un_error {
    int step;                   /* enum un_step */
    int errnum;                 /* errno of the failed call, 0 if no call failed */
    const char *cause;          /* id of a struct un_cause, or NULL if the cause is unknown */
    char detail[UN_DETAIL_MAX]; /* the object of the failure: a path, an extent, a helper's message
                                 */
    char remedy[UN_DETAIL_MAX]; /* the remedy for this failure; "": the remedy of the cause applies
                                 */
};

/* Explanation of a failure for the user. */
struct un_cause {
    const char *id;     /* stable: an id never changes after a release */
    const char *why;    /* one or two sentences */
    const char *remedy; /* instructions, with a command where one exists */
};

/* Returns the version of the package. */
const char *un_version(void);
/* Closes a descriptor unless it is -1, and replaces it by -1 first. Threads may call this function
 * at the same time. */
void un_close_fd(int *fd);
/* Returns the name of a step, such as "uid_map". */
const char *un_step_name(int step);
/* Fills in the cause with the given id. Returns whether that id exists. */
bool un_cause_find(const char *id, struct un_cause *cause);
/* Writes one line into `text`: the detail of the error and the text of its errno. Returns `text`.
 */
const char *un_error_reason(const struct un_error *err, char *text, size_t size);
/* Sets the cause of an error that has none yet, if facts that are cheap to read from `proc`
 * ("/proc") indicate a cause. Must be called right after the failure, by the process that failed.
 */
void un_diagnose(struct un_error *err, const char *proc);
/* Returns the exit status for a failure before the command ran: 127 if the command was not found,
 * 126 if the command could not be executed, 125 for any other failure. */
int un_exit_status(const struct un_error *err);

/* ---- limits of the control group (facts/control_group.c) ------------------------------------- */

struct un_group_limits {
    uint64_t memory;     /* in bytes; UINT64_MAX for no limit */
    uint64_t processors; /* quota of processor time, rounded up; UINT64_MAX for no limit */
};

/* Reads the memory size and the number of processors that a program in a sandbox sees: those of
 * this machine, or the limits of this process's control group and its parents where these are
 * lower. A cpuset of the control group counts, since it restricts the processors on which this
 * process may run. */
void un_seen_limits(struct un_group_limits *limits);

/* The present use of memory, tasks and processor time by the processes of a sandbox. */
struct un_sandbox_usage {
    uint64_t memory; /* bytes: the memory of the programs inside, and the anonymous memory and page
                        tables of all processes */
    uint64_t tasks; /* processes and threads: gVisor's kernel, and the processes that the kernel has
                       started */
    uint64_t time;  /* processor time of the processes that still exist, in microseconds */
};

/* Measures a sandbox, whose main processes are children of `parent` (facts/usage.c). Returns 0, or
 * -1 with errno: ESRCH if gVisor's kernel does not run, EACCES if its files can't be read. */
int un_sandbox_usage(int parent, struct un_sandbox_usage *usage);

/* The resources of a sandbox that a control group can limit. */
enum un_group_part { UN_GROUP_MEMORY, UN_GROUP_PIDS, UN_GROUP_CPU, UN_GROUP_PARTS };

/* Stores the version of the control groups that this process may make to limit each part, or 0 if
 * it may make none (facts/group_place.c). */
void un_group_versions(int versions[UN_GROUP_PARTS]);
/* Prepares the directories in which control groups will be made, before a user namespace is
 * entered. `parts` are bits 1 << UN_GROUP_.... Failures are ignored: the start of a sandbox reports
 * them. */
void un_groups_prepare(uint64_t parts);
/* Removes the control groups of ended sandboxes whose watcher was killed by SIGKILL. */
void un_groups_sweep(uint64_t parts);

/* Returns how many processes of the control group of this process the kernel has killed because
 * memory ran out (explain/limits.c), or 0 if that can't be read. */
uint64_t un_oom_kills(void);
/* Returns the number of processes that the kernel of this machine has killed for lack of memory. */
uint64_t un_machine_oom_kills(void);

/* ---- runsc's failures (explain/runsc.c) ------------------------------------------------------ */

/* Exit statuses of `runsc run` if runsc failed, and if runsc crashed (2, as for each program in
 * Go). The command in the sandbox may exit with the same statuses. */
#define UN_RUNSC_FAILED 128
#define UN_RUNSC_CRASHED 2

struct un_runsc_failure {
    char what[4096];       /* one line: the message of runsc in quotation marks */
    bool has_cause;        /* whether the message has exactly one possible cause */
    struct un_cause cause; /* valid if has_cause */
    char remedy[4096];     /* one or more lines */
};

/* Explains a message of runsc by the catalogue of messages. `limit` is the id of the cause of an
 * exceeded limit, or ""; this cause is preferred if the message has several possible causes. Text
 * that the message quotes from the untrusted config.json is ignored; if `config` is NULL, the whole
 * message is ignored. `proc` is "/proc". */
int un_runsc_explain(const char *message, const char *limit, const char *config, size_t size,
                     const char *proc, struct un_runsc_failure *failure, struct un_error *err);
/* Explains an exit of runsc without a message. A `status` of 128+N may mean death by signal N.
 * `proc` is "/proc". */
void un_runsc_explain_silence(int status, const char *limit, const char *proc,
                              struct un_runsc_failure *failure);

/* ---- output of runsc (explain/messages.c, explain/runsc_files.c) ----------------------------- */

/* A list of strings, stored one after the other, each terminated by NUL. */
struct un_messages {
    char *bytes;
    size_t size;  /* total size of the strings, in bytes */
    size_t count; /* number of strings */
};

/* Reads the member "msg" of each JSON object in `text`, up to the first malformed object. Objects
 * without "msg" and empty messages are skipped. NUL and invalid UTF-8 become U+FFFD. Returns -1 on
 * ENOMEM. */
int un_messages_read(const char *text, size_t size, struct un_messages *messages);
void un_messages_free(struct un_messages *messages);

/*
 * Evidence of a failure that only runsc itself can have written: the fatal errors of its processes
 * (--log, as JSON), the first line of Go's crash report (--panic-log), and the exit status in the
 * last line of runsc's own debug log. Other lines of the debug logs may quote the untrusted bundle
 * and command.
 */
struct un_runsc_logs {
    bool has_ended;              /* whether runsc exited normally, after the sandbox */
    const char *reason;          /* the message that explains the failure, or NULL */
    struct un_messages messages; /* all fatal errors, in order */
    char *crash;                 /* the first line of the crash report, or NULL */
};

/* Reads the beginning of the error log and of the crash report, and the end of the debug log.
 * Missing files are no error. The path `debug` may contain %COMMAND%. Returns -1 on ENOMEM. */
int un_runsc_logs_read(const char *errors, const char *crash, const char *debug,
                       struct un_runsc_logs *logs);
void un_runsc_logs_free(struct un_runsc_logs *logs);

/* ---- messages of other programs (explain/search.c) ------------------------------------------- */

#define UN_CAUSES_MAX 256      /* above the number of causes in the catalogue */
#define UN_OCCURRENCES_MAX 512 /* above the number of messages, hints and causes */

/* An occurrence of a message of the catalogue, or of the id of a cause, in a text. */
struct un_occurrence {
    size_t at; /* offset of the occurrence */
    bool
        is_hint; /* a hint has no cause of its own, but moves the causes listed here to the front */
    size_t count;       /* number of causes */
    const char *causes; /* ids of the causes, likeliest first, each terminated by NUL */
};

/* A search for all messages of the catalogue in a text that is read in pieces. Starts zeroed. */
struct un_search {
    size_t count;
    struct un_occurrence occurrence[UN_OCCURRENCES_MAX];
};

/* Searches a further piece of the text for messages, hints and ids of causes (which our own errors
 * contain), and adds each that no earlier piece contained. The piece may contain any bytes. Takes
 * time linear in the size of the piece, and allocates no memory. */
void un_search_add(struct un_search *search, const char *piece, size_t size);
/* Lists the possible causes of the whole text, likeliest first, and returns their number. Causes
 * named by a hint come first, then the causes of the messages with the fewest causes. */
size_t un_search_causes(const struct un_search *search, const char *ids[UN_CAUSES_MAX]);

/* ---- extents and maps (map/idmap.c, sys/map_files.c) ----------------------------------------- */

#define UN_MAP_MAX 340        /* extents per map; 5 before Linux 4.15 */
#define UN_MAP_TEXT_MAX 11221 /* 340 lines of three ten-digit numbers, and a NUL */

/* Maps the `count` ids from `inside` on to the `count` ids from `outside` on. */
struct un_extent {
    uint32_t inside;
    uint32_t outside;
    uint32_t count;
};

struct un_map {
    uint32_t len;
    struct un_extent extent[UN_MAP_MAX];
};

enum un_kind { UN_UID, UN_GID };

/* Side of a map: inside or outside the user namespace. */
enum un_side { UN_INSIDE, UN_OUTSIDE };

/* A uid map and a gid map, indexed by enum un_kind. */
struct un_idmap {
    struct un_map of[2];
};

/* Parses "inside:outside:count". */
int un_extent_parse(const char *text, struct un_extent *extent, struct un_error *err);
int un_map_add(struct un_map *map, struct un_extent extent, struct un_error *err);
/* Checks a map against all rules for which the kernel returns a bare EINVAL; see map/idmap.c. */
int un_map_check(const struct un_map *map, uint32_t max_extents, size_t page_size,
                 struct un_error *err);
/* Writes a map in the format of /proc/PID/uid_map, terminated by NUL. Returns the length.
 * Async-signal-safe. */
size_t un_map_format(const struct un_map *map, char text[UN_MAP_TEXT_MAX]);
/* Parses a map in the format of /proc/PID/uid_map. */
int un_map_parse(const char *text, struct un_map *map, struct un_error *err);
/* Reads a map from a file such as /proc/self/uid_map; `name` is relative to the directory `dir`. */
int un_map_read(int dir, const char *name, struct un_map *map, struct un_error *err);
/* Returns the extent with an id on that side of the map, or NULL. */
const struct un_extent *un_map_find(const struct un_map *map, int side, uint32_t id);
/* Returns the length, at most `count`, of the longest run of ids from `id` on that either all
 * belong to one extent on that side of the map (*mapped becomes true), or are all unmapped (*mapped
 * becomes false). */
uint32_t un_map_run(const struct un_map *map, int side, uint32_t id, uint32_t count, bool *mapped);
/* Returns whether two maps map the same ids to the same ids, however the extents are ordered or
 * split. */
bool un_map_equal(const struct un_map *a, const struct un_map *b);

/* ---- subordinate ranges (facts/subid.c) ------------------------------------------------------ */

/* The `count` ids from `start` on. */
struct un_range {
    uint32_t start;
    uint32_t count;
};

struct un_ranges {
    uint32_t len;
    struct un_range range[UN_MAP_MAX];
};

#define UN_NOTICE_MAX 200
#define UN_NOTICES 8

/* Warnings that do not stop the setup: malformed lines, ranges granted to several users. */
struct un_notices {
    uint32_t len;  /* number of texts stored */
    uint32_t more; /* number of texts dropped for lack of room; the last text gives this number */
    char text[UN_NOTICES][UN_NOTICE_MAX];
};

/* Reads the ranges of a user from a file like /etc/subuid (subuid(5)): from lines that begin with
 * exactly the user's name, or with exactly the uid in decimal. A missing file counts as empty. */
int un_subid_read(const char *path, const char *user, uint32_t uid, struct un_ranges *ranges,
                  struct un_notices *notices, struct un_error *err);

/* ---- facts (facts/) -------------------------------------------------------------------------- */

#define UN_USER_MAX 256
#define UN_PATH_MAX 4096

/* State of newuidmap or newgidmap, as far as known without running the program. */
enum un_helper_state {
    UN_HELPER_MISSING,    /* not on PATH */
    UN_HELPER_READY,      /* also set for a script, which may start a helper with privileges */
    UN_HELPER_NOT_SETUID, /* neither setuid root nor with file capabilities */
    UN_HELPER_NOSUID, /* on a mount with nosuid, where setuid and file capabilities have no effect
                       */
    UN_HELPER_NOT_EXECUTABLE,
    UN_HELPER_CAPS_ELSEWHERE /* has file capabilities of another user namespace */
};

struct un_id_facts {
    uint32_t own; /* effective id of the caller */
    struct un_map
        parent; /* map of the caller's user namespace, which shows the ids that exist there */
    struct un_ranges ranges;
    int helper_state;         /* enum un_helper_state */
    char helper[UN_PATH_MAX]; /* path of the helper */
};

#define UN_GRANT_COUNT 65536 /* the number of ids that useradd(8) grants to a user */

/* Files that list the owners of ids, indexed by enum un_kind. */
struct un_grant_files {
    const char *subid[2]; /* /etc/subuid and /etc/subgid */
    const char *users[2]; /* /etc/passwd and /etc/group */
};

/* Finds a range that is free both as uids and as gids, and exists in the caller's user namespace,
 * whose maps are `parents`. The range has UN_GRANT_COUNT ids above everything granted to any user,
 * as useradd(8) chooses it, or fewer where no ids that high exist. Returns false if no range is
 * free or the granted ranges can't be read. */
bool un_free_ids(const struct un_grant_files *files, const struct un_map *const parents[2],
                 struct un_range *found);

/* All facts that a plan depends on. */
struct un_facts {
    struct un_id_facts id[2]; /* indexed by enum un_kind */
    uint64_t caps;            /* effective capabilities of the caller, bit N for capability N */
    size_t page_size;         /* in bytes */
    /* The following fields are read only if the plan needs them: un_facts_read_parents(). */
    bool has_parents; /* whether un_facts_read_parents() has filled in the kernel version and
                         id[].parent */
    uint32_t kernel_major;
    uint32_t kernel_minor;
    /* The following fields are filled in by un_facts_read_ranges(). */
    bool has_ranges; /* whether un_facts_read_ranges() has succeeded */
    bool no_new_privs;
    bool in_bounding_set;   /* whether CAP_SETUID and CAP_SETGID are in the bounding set, so that
                               helpers can gain them */
    char user[UN_USER_MAX]; /* user name of the caller, "" if the uid has none */
    int64_t user_gid;       /* gid in the passwd entry of the caller, -1 without an entry */
    bool any_group; /* whether the helpers accept a caller whose gid differs from user_gid */
    struct un_notices notices;
};

/* Files from which un_facts_read_ranges() reads. NULL means the default path. */
struct un_sources {
    const char *subid[2]; /* /etc/subuid and /etc/subgid, indexed by enum un_kind */
    const char *passwd;   /* /etc/passwd */
    const char *nsswitch; /* /etc/nsswitch.conf */
    const char *login;    /* /etc/login.defs */
    const char *path;     /* directories to search for helpers, separated by colons */
};

/* Reads the facts about the calling process that every plan needs. */
int un_facts_read(struct un_facts *facts, struct un_error *err);
/* Reads which ids exist in the caller's user namespace, and the kernel version. */
int un_facts_read_parents(struct un_facts *facts, struct un_error *err);
/* Reads the subordinate id ranges of the caller, and the state of the helpers. */
int un_facts_read_ranges(struct un_facts *facts, const struct un_sources *sources,
                         struct un_error *err);
/* Returns the number of threads of this process, or -1 if /proc can't be read. */
int un_thread_count(void);
/* Returns 1 if the kernel denies this process memory that is both writable and executable
 * (PR_GET_MDWE(2const)), 0 if not, -1 if the kernel does not support the query. */
int un_denies_write_execute(void);
/* Returns the securebits of the calling thread (capabilities(7)), or -1. */
int un_securebits(void);
/* Returns the number of capabilities that this kernel has (capabilities(7)), or -1. */
int un_capability_count(void);
/* Returns the dumpable attribute of this process (PR_GET_DUMPABLE(2const)), or -1. The value 1
 * allows other processes of the same user to ptrace this process. */
int un_dumpable(void);
/* Returns the version of Landlock's ABI (landlock_create_ruleset(2)), or 0 if Landlock is absent or
 * denied. The kernel has no query for whether Landlock confines this process. */
int un_landlock_version(void);

/* ---- planning (map/plan.c, facts/caller_plan.c) ---------------------------------------------- */

enum un_setgroups { UN_SETGROUPS_AUTO, UN_SETGROUPS_ALLOW, UN_SETGROUPS_DENY };

/* The process that writes a map. */
enum un_writer {
    UN_WRITER_NONE,   /* no process: the map stays empty */
    UN_WRITER_SELF,   /* the process itself: maps one id, its own effective id */
    UN_WRITER_PARENT, /* a process outside with CAP_SETUID or CAP_SETGID: may write any map */
    UN_WRITER_HELPER  /* newuidmap or newgidmap: map what /etc/subuid or /etc/subgid grants */
};

/* Ids to map in addition to the caller's own id and the extents of the request. */
enum un_fill {
    UN_FILL_NONE,
    UN_FILL_PACKED,   /* all subordinate ranges of the caller, to the free ids from 0 on */
    UN_FILL_IDENTITY, /* all subordinate ranges of the caller, each id to itself */
    UN_FILL_ALL       /* all ids that exist in the caller's namespace, each to itself */
};

struct un_id_request {
    bool map_self;      /* whether to map the caller's own id */
    uint32_t self;      /* the id inside that the caller's own id is mapped to */
    struct un_map more; /* further extents */
    int fill;           /* enum un_fill */
};

struct un_request {
    struct un_id_request id[2]; /* indexed by enum un_kind */
    int setgroups;              /* enum un_setgroups */
    bool allow_single_id; /* fall back to mapping only the caller's own id instead of failing */
};

#define UN_HELPER_TIMEOUT_MS 10000

struct un_plan {
    struct un_idmap map;
    int writer[2];               /* enum un_writer, indexed by enum un_kind */
    const char *reason[2];       /* why that writer was chosen, indexed by enum un_kind */
    char helper[2][UN_PATH_MAX]; /* path of the helper, if the writer is UN_WRITER_HELPER */
    int helper_timeout_ms;       /* timeout of both helpers together */
    struct un_ranges clipped[2]; /* parts of the subordinate ranges that do not exist in the
                                    caller's namespace */
    bool single_id;         /* whether allow_single_id was used because the full request failed */
    struct un_error wanted; /* the error of the full request, if single_id is set */
    int setgroups;     /* what to write to /proc/PID/setgroups; UN_SETGROUPS_AUTO writes nothing */
    int64_t become[2]; /* id to switch to inside, indexed by enum un_kind; -1 keeps the id */
    bool drop_groups;  /* whether to drop the supplementary groups: the gid outside changes, and
                          setgroups(2) is allowed */
    bool is_root;      /* whether the caller is uid 0 of its own namespace */
};

/* Returns whether a plan for this request needs un_facts_read_parents(). */
bool un_plan_needs_parents(const struct un_request *request, const struct un_facts *facts);
/* Returns whether a plan for this request needs un_facts_read_ranges(). */
bool un_plan_needs_ranges(const struct un_request *request, const struct un_facts *facts);
/* Chooses the maps and their writers. A pure function: reads no files and starts no processes, so
 * the same request and facts always give the same plan. */
int un_plan_make(const struct un_request *request, const struct un_facts *facts,
                 struct un_plan *plan, struct un_error *err);
const char *un_writer_name(int writer);
/* Returns whether the process itself writes both maps. Async-signal-safe. */
bool un_plan_writes_itself(const struct un_plan *plan);

/* Plans joining the user namespace of a process, a descendant of the caller's, whose /proc
 * directory is open as `dir`: fills in its maps, the ids to switch to, and whether to drop the
 * groups. */
int un_plan_to_join(int dir, struct un_plan *plan, struct un_error *err);
/* Reads the facts about the calling process that a request needs, and makes a plan from them. */
int un_plan_for_caller(const struct un_request *request, const struct un_sources *sources,
                       struct un_facts *facts, struct un_plan *plan, struct un_error *err);

/* ---- writing the maps (sys/map_files.c, ns/helper.c) ----------------------------------------- */

/* Writes setgroups, uid_map and gid_map, in that order, of the process whose /proc directory is
 * open as `dir`. Maps that a helper writes are skipped. Async-signal-safe. */
int un_write_maps(int dir, const struct un_plan *plan, struct un_error *err);
/* Runs newuidmap and newgidmap in parallel for the process whose /proc directory is open as `dir`.
 * That process must be an unreaped child of the caller, so that its pid can't be reused. */
int un_run_helpers(int dir, const struct un_plan *plan, struct un_error *err);
/* Reads the maps of the process back. Fails unless they equal the planned maps. */
int un_verify_maps(int dir, const struct un_plan *plan, struct un_error *err);

/* ---- namespaces (sys/namespaces.c, ns/namespace.c) ------------------------------------------- */

enum un_ns {
    UN_NS_USER,
    UN_NS_MOUNT,
    UN_NS_NET,
    UN_NS_PID,
    UN_NS_IPC,
    UN_NS_UTS,
    UN_NS_CGROUP,
    UN_NS_TIME,
    UN_NS_COUNT
};

/* Descriptors of namespaces, indexed by enum un_ns; -1 for a namespace shared with the caller. */
struct un_namespace {
    int fd[UN_NS_COUNT];
};

/* Returns the CLONE_NEW... flag of a type of namespace. */
uint64_t un_ns_flag(int ns);
/*
 * Root in a user namespace may ptrace any process that joins the namespace. So a process joins only
 * after it has executed the child program, usernsctl-child, whose memory and descriptors hold
 * nothing of the caller. `child` is the path of that program; a static program that calls
 * un_child_main() can name itself, as "/proc/self/exe".
 */

/* Creates namespaces, with the user namespace mapped as planned, and opens descriptors of them. No
 * process stays behind. `flags` are the CLONE_NEW... flags of the other namespaces; CLONE_NEWPID
 * fails with EINVAL, because a PID namespace can't outlive its process 1. */
int un_namespace_create(const struct un_plan *plan, uint64_t flags, const char *child,
                        struct un_namespace *ns, struct un_error *err);
void un_namespace_close(struct un_namespace *ns);
/* Moves the caller into the namespaces, the user namespace first. The process becomes non-dumpable
 * (PR_SET_DUMPABLE(2const)) before, so that processes inside can't ptrace it. The caller must first
 * close all descriptors that processes inside must never get. Async-signal-safe. */
int un_namespace_join(const struct un_namespace *ns, struct un_error *err);
/* Moves this process, which must be single-threaded, into new namespaces. If `plan` is NULL, no
 * user namespace is created. The process becomes non-dumpable, except while it opens its three map
 * files. With `is_private` the process is never dumpable: the namespace is then created by `child`,
 * as also happens whenever another process has to write the map. */
int un_enter(const struct un_plan *plan, uint64_t flags, const char *child, bool is_private,
             struct un_error *err);

/* ---- setup inside the namespaces (sys/setup.c, sys/mount.c) ---------------------------------- */

/* Setup inside the namespaces, performed in the order of the fields. Unset fields are NULL, 0,
 * false or -1. */
struct un_setup {
    bool own_stdio;            /* see un_own_stdio() */
    unsigned long propagation; /* MS_PRIVATE, MS_SLAVE or MS_SHARED for all mounts */
    const char *root;          /* chroot(2) */
    const char *mount_proc;    /* mount point of a new proc, below `root` */
    const char *cwd;           /* chdir(2) */
    uint64_t drop_bounding;    /* bit N drops capability N from the bounding set */
    bool no_new_privs;         /* PR_SET_NO_NEW_PRIVS(2const) */
    bool no_membarrier;        /* see un_add_membarrier_filter() */
    const gid_t *groups;       /* group_count groups for setgroups(2) */
    int32_t group_count;       /* -1 keeps the groups */
    int64_t gid;               /* setresgid(2) */
    int64_t uid;               /* setresuid(2) */
    bool keep_caps;            /* keep the capabilities across exec, as ambient capabilities */
    int pdeathsig;             /* signal at the death of the parent, PR_SET_PDEATHSIG(2const) */
    int parent_pidfd; /* pidfd of that parent, which may have died before PR_SET_PDEATHSIG */
};

void un_setup_init(struct un_setup *setup);
/* Performs a setup. A process that is not dumpable stays so. Async-signal-safe. */
int un_setup_apply(const struct un_setup *setup, struct un_error *err);
/* Calls mount(2), and fills in the error. Async-signal-safe. */
int un_mount(const char *source, const char *target, const char *type, unsigned long flags,
             const char *data, struct un_error *err);
/* Bind-mounts the file or directory `source`, with all mounts below it, on `target`, which must be
 * of the same type. Both are descriptors (O_PATH suffices) of this mount namespace. The mount has
 * `attributes` (MOUNT_ATTR_... of mount_setattr(2)) from the beginning. `name` is for the error
 * message. Before Linux 5.12 this fails with cause mount-by-descriptor-missing. */
int un_bind(int source, int target, uint64_t attributes, const char *name, struct un_error *err);
/* Sets the attributes `set` and clears the attributes `clear` on the mount whose root is open as
 * `top`, and on all mounts below. Before Linux 5.12 this fails as un_bind() does. */
int un_mount_restrict(int top, uint64_t set, uint64_t clear, const char *name,
                      struct un_error *err);

/* ---- running a command (sys/exec.c, sys/fds.c, sys/supervise.c, ns/spawn.c) ------------------ */

struct un_command {
    const char *file;        /* a path, or a name to search for in `path` */
    const char *path;        /* directories separated by colons; NULL means /bin:/usr/bin */
    const char *const *argv; /* ends with NULL */
    const char *const *envp; /* ends with NULL */
};

/* Executes the command. Returns only on failure, with -1. Async-signal-safe. */
int un_exec(const struct un_command *command, struct un_error *err);
/* Closes all descriptors from 3 on except those in `keep`, which is sorted and without duplicates.
 * Clears close-on-exec of those in `keep`. Async-signal-safe. */
int un_close_fds(const int *keep, size_t keep_count, struct un_error *err);

#define UN_START_TIMEOUT_MS 30000

struct un_spawn {
    const char
        *child; /* path of the child program, see un_namespace_create(); NULL for a bare command */
    const struct un_plan *plan;      /* for a new user namespace, or NULL */
    const struct un_namespace *join; /* namespaces to join first, or NULL */
    uint64_t flags;                  /* CLONE_NEW... flags of further new namespaces */
    bool has_init; /* with CLONE_NEWPID: process 1 forks the command, forwards signals to it, reaps
                      orphans, and exits with the command's status, or 128+N after signal N */
    int cgroup;    /* descriptor of a cgroup v2 directory to start in; -1 means the caller's */
    struct un_setup setup;
    struct un_command command;
    int stdio[3];         /* descriptors to use as 0 to 2; -1 keeps the caller's */
    bool close_fds;       /* close all descriptors from 3 on except `keep` */
    const int *keep;      /* descriptors that the command inherits, sorted, without duplicates */
    size_t keep_count;    /* number of descriptors in `keep` */
    bool restore_signals; /* reset SIGPIPE and SIGXFSZ, which Python ignores, to the default action
                           */
    int start_timeout_ms; /* timeout until the child has executed the command; -1 means none */
    const uint64_t
        *signals; /* signals that the command blocks; NULL means the signal mask of the caller */
    bool new_session;  /* setsid(2) */
    int process_group; /* setpgid(2); -1 keeps the group */
    int umask;         /* umask(2); -1 keeps the mask */
};

void un_spawn_init(struct un_spawn *spawn);
/*
 * Starts a command in a child. On success the command has been executed, *pid is its pid, and
 * *pidfd refers to it; on failure no process is left. Safe to call from any thread; a
 * pthread_cancel(3) meanwhile takes effect after the call. The cost does not depend on the size of
 * the caller's memory. Root in a joined namespace can stop the child from executing the command, so
 * the child is killed at the start timeout.
 *
 * A bare command, which changes no namespace, root directory, ids or capabilities, is executed by
 * the child directly; any other command by the child program, once inside.
 */
int un_spawn(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);
/* Returns the wait status, as of waitpid(2), of a process that was already reaped, for example by
 * the kernel because SIGCHLD is ignored; -1 if the kernel does not support that query (before Linux
 * 6.15). */
int un_lost_status(int pidfd);
/* The resource usage of a process and of all its descendants that were reaped (getrusage(2)). */
struct un_usage {
    int64_t user_us;   /* processor time in user mode, in microseconds */
    int64_t system_us; /* processor time in the kernel, in microseconds */
    int64_t max_kib;   /* peak of the memory of the greatest of the processes, in KiB */
};
/* Reaps a child that has exited, without waiting. Returns 0 and its usage, or -1. */
int un_reap_exited(int pidfd, struct un_usage *usage);
/*
 * Acts as process 1 of a PID namespace for the command `child`: forwards signals to the command,
 * reaps all children, and exits with the status of the command, or 128+N if signal N killed it,
 * because process 1 can't kill itself by a signal. The kernel then kills all other processes of the
 * namespace (pid_namespaces(7)). Does not return. All signals must have been blocked since before
 * `child` was started, and SIGCHLD must not be ignored. Process 1 keeps no descriptor but `report`,
 * if that is not -1, and writes each wait status of the command there, an int as of waitpid(2).
 */
void un_be_init(pid_t child, int report);
/* Kills this process by `sig`, the signal that killed a child, without a core dump. Returns if that
 * fails: process 1 of a PID namespace can't kill itself by a signal. */
void un_reraise(int sig);
/* Waits for a child on behalf of the caller's parent, as usernsctl-exec --fork does: forwards
 * signals to the child, and returns its wait status, as of waitpid(2). Signals that arrived before
 * the call are forwarded too if they were blocked when the child was forked. Reaps all other
 * children as well, so the process must have no other use for them. */
int un_supervise_child(pid_t child);

/* ---- users and groups of a sandbox (base/accounts.c) ----------------------------------------- */

/* The maximum size of /etc/passwd and /etc/group: room for more than 100,000 users. */
#define UN_ACCOUNT_FILE_MAX 8388608
/* The maximum number of groups of a user, as in a message to the agent. */
#define UN_ACCOUNT_GROUPS_MAX 4096

/* The content of /etc/passwd or /etc/group of a sandbox. */
struct un_account_file {
    const char *bytes; /* NULL if the file does not exist */
    size_t length;
};

/* A user of a sandbox. */
struct un_account {
    uint32_t id[2];                         /* indexed by UN_UID and UN_GID */
    uint32_t groups[UN_ACCOUNT_GROUPS_MAX]; /* the supplementary groups, in ascending order */
    size_t group_count;
    char home[UN_PATH_MAX]; /* the home directory in /etc/passwd; "" if it has no valid one */
};

/* Finds a user and a group, each a number or a name. `group` may be NULL: a name then has the group
 * in /etc/passwd, and the supplementary groups that list the user; a number has the group of that
 * number. The first line with a name counts, as for getpwnam(3). Malformed lines are skipped. */
int un_account_find(const char *user, const char *group, const struct un_account_file *passwd,
                    const struct un_account_file *groups, struct un_account *account,
                    struct un_error *err);

/* ---- the file system of a sandbox (launch/view.c, launch/command.c) -------------------------- */

/* The directory tree that a sandbox will see: a root filesystem, and the mounts of runsc on it. */
struct un_view;

/* Creates a view of the root filesystem `top`, a descriptor (O_PATH) that the view takes over.
 * Returns -1 with errno. */
int un_view_new(int top, struct un_view **view);
/* Adds a mount that runsc will make at `inside`, a path without symbolic links. Of two mounts at
 * the same path the first one is used. The view takes over the descriptor `fd` (O_PATH). `source`
 * is the path outside, or "" if no file of the host is mounted. Returns -1 with errno. */
int un_view_add(struct un_view *view, const char *inside, const char *source, int fd);
/* Sets the users and groups, by their ids outside, whose directories the sandbox may search even
 * where this process may not. Returns -1 with errno. */
int un_view_set_owners(struct un_view *view, const struct un_idmap *ids);
/* Frees a view, and sets the pointer to NULL. Does nothing if it is NULL. */
void un_view_free(struct un_view **view);

/* The result of following a path in a sandbox. */
struct un_reached {
    int errnum;        /* why the path can't be followed; 0 on success */
    bool is_certain;   /* whether the sandbox will certainly fail with `errnum`, too */
    bool is_of_gvisor; /* whether the path leads into a file system that only gVisor can read */
    bool is_implicit;  /* whether gVisor creates the last directory as part of a mount point */
    int fd; /* the last file (O_PATH), to be closed by the caller; -1 if not accessible */
    char inside[UN_PATH_MAX];  /* path of the last file, without symbolic links */
    char missing[UN_PATH_MAX]; /* the rest of the path, which does not exist; or "" */
};

/* Follows a path and its symbolic links as the kernel of the sandbox will. A relative path begins
 * at `start`, a directory inside. Returns the descriptor reached->fd. */
int un_view_follow(const struct un_view *view, const char *start, const char *path,
                   struct un_reached *reached);
/* Returns whether the sandbox will have a directory at this absolute path. */
bool un_view_has_directory(const struct un_view *view, const char *inside);

/* The reason why a sandbox can't start a command. */
struct un_command_fault {
    int step;               /* UN_STEP_LOOKUP if the command is not found, otherwise UN_STEP_EXEC */
    int errnum;             /* the errno with which execve(2) will fail */
    char path[UN_PATH_MAX]; /* the file at fault: its path inside, or the command */
    char reason[4 * UN_PATH_MAX]; /* one sentence; "" for UN_STEP_LOOKUP */
    const char *remedy;           /* the remedy; "" if that depends on the caller */
    char
        interpreter[UN_PATH_MAX]; /* path inside of a script's interpreter that is missing; or "" */
};

/* Checks that a command can be found in `search` and executed, from the directory `cwd` inside.
 * Files that only gVisor can read, or that this process may not read, are assumed to be valid.
 * Returns whether there is a fault. */
bool un_view_check_command(const struct un_view *view, const char *command, const char *search,
                           const char *cwd, struct un_command_fault *fault);

/* ---- launches (launch/) ---------------------------------------------------------------------- */

/*
 * A launch is the description of all steps from a request to the exec of runsc, as arguments
 * terminated by NUL, which launch/verbs.h lists. The Python package or usernsctl-exec composes a
 * launch, and these functions perform it: they open the sources, then (after the caller has entered
 * the namespaces) build the root filesystem and the files, then execute the program that waits for
 * runsc.
 */
#define UN_LAUNCH_MAX 33554432 /* size of a launch in bytes */
#define UN_LAUNCH_WORDS_MAX 262144

/* Limit of descriptors (RLIMIT_NOFILE) for each process of a sandbox on the host. gVisor's kernel
 * holds two or three per open host file, as many per file in its dentry cache (runsc's flag
 * --dcache), and one per socket of the host network. */
#define UN_SANDBOX_FILES_MAX 16384

/* A launch that is being performed. */
struct un_launch;

/* Parameters of a launch that are known only when it is performed. */
struct un_launch_params {
    const char *const *args;  /* the command and its arguments, ends with NULL */
    const char *const *env;   /* the environment of the command, ends with NULL */
    const char *cwd;          /* the working directory inside */
    const char *hostname;     /* NULL means no host name */
    const char *const *homes; /* home directories of the caller, absolute paths; ends with NULL */
    uint32_t id[2];           /* the uid and the gid of the command, indexed by UN_UID and UN_GID */
    const uint32_t *groups;   /* supplementary groups of the command; none if one id is mapped */
    size_t group_count;
    bool terminal;       /* whether the command gets the terminal of this process */
    bool reraise_signal; /* after death by signal N, die by the same signal instead of exiting with
                            128+N */
    bool log_json;       /* whether the watcher prints messages in JSON */
    const char *const *watch_options; /* further options of the watcher, ends with NULL; or NULL */
    const int *watch_fds;             /* further descriptors that the watcher inherits */
    size_t watch_fd_count;
};

/* Returns whether standard input, output and error are the same terminal. gVisor uses only one of
 * them as the command's terminal. */
bool un_stdio_is_terminal(void);
/* Parses a launch into *launch, which refers to `bytes` until it is closed. */
int un_launch_parse(const void *bytes, size_t size, struct un_launch **launch,
                    struct un_error *err);
/* Fails if a seccomp filter forbids a system call that the start of a sandbox makes. Must be called
 * before the first of these system calls, since a process that the filter kills can't report the
 * cause. */
int un_filter_check_launch(struct un_error *err);
/* Fails if a seccomp filter kills callers of a system call that `usernsctl doctor` itself makes. */
int un_filter_check_doctor(struct un_error *err);
/* Checks the assumptions of the launch about the host, opens its sources, and prepares control
 * groups if the launch needs them, before the namespaces are entered. `fds` has one descriptor per
 * source, which the caller keeps, or -1 for a source to be opened here; NULL means all -1. */
int un_launch_open(struct un_launch *launch, const int *fds, struct un_error *err);
/* Directories that must never be visible in a sandbox. */
struct un_hidden {
    const char *state;     /* directory of the records of sandboxes */
    const char *templates; /* directory of templates; NULL if the caller has none */
};

/* Fails if a program in the sandbox could see a hidden directory, or could write to `file`, from
 * which the launch was read, or to the parent directory of `file`. The launch must be open. */
int un_launch_guard(struct un_launch *launch, int file, const struct un_hidden *hidden,
                    struct un_error *err);
/* Builds the root filesystem and the files of the sandbox in the mount namespace of this process,
 * whose mounts must be private. After a failure nothing stays mounted. */
int un_launch_build(struct un_launch *launch, const struct un_launch_params *params,
                    struct un_error *err);
/* Writes config.json, drops privileges, and executes the program that waits for runsc. Returns only
 * on failure, with -1; privileges may be dropped by then. */
int un_launch_exec(struct un_launch *launch, const struct un_launch_params *params,
                   struct un_error *err);
/* Closes all descriptors of the launch and frees it. Mounts stay. NULL is allowed. */
void un_launch_close(struct un_launch *launch);

/* Returns the file system that the sandbox will see, which the launch owns. */
const struct un_view *un_launch_view(const struct un_launch *launch);
/* Return the remedy of the last failure, and the path that failed. The remedy is NULL unless a
 * better one than the cause's is known. */
const char *un_launch_remedy(const struct un_launch *launch);
const char *un_launch_filename(const struct un_launch *launch);

/* Checks bind-mount sources, each an open descriptor of any kind with a name for the error. Fails
 * if a source contains `directory` (which need not exist yet), or a symbolic link on the way to it,
 * or lies in it. *which becomes the index of the offending source. */
int un_refuse_to_show(const int *fds, const char *const *names, size_t count, const char *directory,
                      size_t *which, struct un_error *err);
/* Finds out whether a bind mount of an open file would expose an interface of the kernel: the file
 * is, lies in, or has a mount below it of /proc, /sys, /dev or a similar file system, by whatever
 * path it was reached. *part becomes its name, or NULL for none. Returns -1 with errno. */
int un_machine_part(int fd, const char **part);
/* Returns whether symbolic links of this owner may be followed anywhere. `path` is that of the
 * link, with all other symbolic links resolved. */
bool un_owner_is_trusted(uid_t uid, const char *path);
/* Returns whether a user other than the caller and root may write to an open directory, according
 * to its mode or its access control list. A group counts as the caller's own if it is root's, or if
 * its gid equals the caller's uid and it has no members. */
bool un_others_may_write(int directory);
/* Stores a checksum of the content of an open file; the descriptor may be O_PATH. The checksum
 * covers a program of up to 256 KiB completely, and the head and samples of a larger one
 * (launch/content.c). Returns -1 with errno. */
#define UN_CONTENT_SUM_ROOM 17
int un_content_sum(int fd, char text[UN_CONTENT_SUM_ROOM]);
/* Sets O_APPEND on a descriptor that is at the end of a file, because gVisor would overwrite the
 * file's contents otherwise. Returns -1 with errno if the descriptor is not open. */
int un_append_at_end(int fd);

#endif
