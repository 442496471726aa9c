/*
 * Interface of usernsctl's core, which creates user namespaces and maps their ids without
 * privileges.
 *
 * This header declares everything that the core offers to the Python package and to the programs of
 * the package. Nothing else includes it, so it may change with each release. The Python binding
 * parses this file, so the declarations are limited to what cffi understands: numbers, structs,
 * enums and functions.
 *
 * Conventions:
 *
 * - A function that can fail returns 0 on success. On failure it fills in the struct un_error that
 *   is its last argument, and returns -1.
 * - No function prints, exits, or keeps state between calls.
 * - "Async-signal-safe" is meant as in signal-safety(7): the function neither allocates memory nor
 *   takes locks, so it may run in a child that still shares its parent's memory.
 * - Descriptors that a function opens are close-on-exec.
 * - user_namespaces(7) documents the kernel's rules. If a rule is newer than the oldest supported
 *   kernel, a comment names the kernel version that introduced it.
 */
#ifndef USERNSCTL_H
#define USERNSCTL_H

/* Reject all architectures except x86-64 and AArch64: gVisor does not support them, and the tests
 * don't run on them. */
#if !defined(__LP64__) || !(defined(__x86_64__) || defined(__AARCH64EL__))
#error "usernsctl supports x86-64 and AArch64 only"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- errors (base/error.c, explain/) --------------------------------------------------------- */

#define UN_DETAIL_MAX 512

/* Steps of starting a command or a sandbox. An error names the step that failed. */
enum un_step {
    UN_STEP_NONE,
    UN_STEP_ARGUMENT, /* checking the caller's arguments */
    UN_STEP_FACTS,    /* reading ids, capabilities and namespaces of the caller */
    UN_STEP_SUBID,    /* reading the caller's subordinate id ranges */
    UN_STEP_PLAN, /* choosing the uid map and the gid map, and the process that writes each map */
    UN_STEP_CLONE,
    UN_STEP_CGROUP, /* starting a process in another cgroup (CLONE_INTO_CGROUP) */
    UN_STEP_UNSHARE,
    UN_STEP_SETNS,
    UN_STEP_SETGROUPS, /* writing /proc/PID/setgroups or calling setgroups(2) */
    UN_STEP_UID_MAP,
    UN_STEP_GID_MAP,
    UN_STEP_HELPER,      /* running newuidmap or newgidmap */
    UN_STEP_PROPAGATION, /* setting the propagation type of mounts */
    UN_STEP_MOUNT,
    UN_STEP_ROOT, /* changing the root directory (chroot(2)) */
    UN_STEP_CWD,  /* changing the working directory (chdir(2)) */
    UN_STEP_SETRESGID,
    UN_STEP_SETRESUID,
    UN_STEP_CAPABILITIES,
    UN_STEP_SESSION,
    UN_STEP_PDEATHSIG,
    UN_STEP_STDIO,  /* setting up standard input, output and error */
    UN_STEP_FDS,    /* passing descriptors to the command and closing all others */
    UN_STEP_LOOKUP, /* searching PATH for the command */
    UN_STEP_EXEC,
    UN_STEP_WAIT,
    UN_STEP_LAUNCH,  /* parsing a launch, the list of steps that start a sandbox */
    UN_STEP_SANDBOX, /* creating the files of a sandbox */
    UN_STEP_ROOTFS,  /* building the root filesystem of a sandbox */
    UN_STEP_HOME,    /* hiding a home directory in the root filesystem */
    UN_STEP_BIND,    /* bind-mounting a file into the root filesystem */
    UN_STEP_CONFIG,  /* writing config.json of a sandbox */
    UN_STEP_RUNSC,   /* executing the program that runs runsc */
    UN_STEP_NETWORK, /* creating the network of a sandbox */
    UN_STEP_USER, /* looking up the user of a command in /etc/passwd and /etc/group of a sandbox */
    UN_STEP_COUNT
};

struct un_error {
    int step;                   /* the step that failed (enum un_step) */
    int errnum;                 /* errno of the system call that failed; 0 if none failed */
    const char *cause;          /* id of a struct un_cause; NULL if it is unknown */
    char detail[UN_DETAIL_MAX]; /* what the step failed on, such as a path or an extent, or the
                                   message of a program that failed */
    char remedy[UN_DETAIL_MAX]; /* remedy for this failure; "" if the cause's remedy applies */
};

/* A cause of failures, as explained to users. */
struct un_cause {
    const char *id;     /* id of the cause; never renamed after a release */
    const char *why;    /* explanation of the cause in one sentence */
    const char *remedy; /* remedy for the user, with a shell command if there is one */
};

const char *un_version(void);
/* Closes the descriptor *fd unless it is -1, and sets *fd to -1. If several threads call this
 * function with the same `fd`, only one of them closes the descriptor. */
void un_close_fd(int *fd);
/* Returns the name of a step (enum un_step), such as "uid_map". */
const char *un_step_name(int step);
/* Copies the cause whose id is `id` to `cause`. Returns false if no cause has this id. */
bool un_cause_find(const char *id, struct un_cause *cause);
/* Writes the description of an error to `text` as one line, which consists of the detail and the
 * text of the errno. Returns `text`. */
const char *un_error_reason(const struct un_error *err, char *text, size_t size);
/* Finds the cause of an error whose cause is still unknown. Uses only facts that are quick to read
 * from `proc` ("/proc"), and sets a cause only if a fact proves it. Call this function right after
 * the failure, in the process whose system call failed. */
void un_diagnose(struct un_error *err, const char *proc);
/* Returns the exit status, as of a shell, for an error that prevents a command from running: 127 if
 * the command was not found, 126 if it could not be executed, 125 for any other error. */
int un_exit_status(const struct un_error *err);

/* ---- limits and usage of control groups (facts/control_group.c) ------------------------------ */

struct un_group_limits {
    uint64_t memory;     /* memory limit in bytes; UINT64_MAX for no limit */
    uint64_t processors; /* number of processors; a quota of CPU time is rounded up to whole
                            processors; UINT64_MAX for no limit */
};

/* Determines the memory size and the number of processors that a program in a sandbox sees: those
 * of the host, unless this process's control group or one of its ancestors has a lower limit. A
 * cpuset also counts, because it restricts the processors on which this process may run. */
void un_seen_limits(struct un_group_limits *limits);

/* Resource usage of the processes that a sandbox has at present. */
struct un_sandbox_usage {
    uint64_t memory; /* memory in bytes: that of the programs in the sandbox, plus anonymous memory
                        and page tables of all processes of the sandbox on the host */
    /* number of threads of gVisor's kernel and of the processes that it has started */
    uint64_t tasks;
    uint64_t time; /* CPU time of the processes that still exist, in microseconds */
};

/* Measures the resource usage of the sandbox whose main processes are children of the process
 * `parent` (facts/usage.c). Returns 0, or -1 with errno set: ESRCH if gVisor's kernel is not
 * running, EACCES if its files in /proc can't be read. */
int un_sandbox_usage(int parent, struct un_sandbox_usage *usage);

/* Resources of a sandbox that can be limited by a control group. */
enum un_group_part { UN_GROUP_MEMORY, UN_GROUP_PIDS, UN_GROUP_CPU, UN_GROUP_PARTS };

/* Determines for each resource in which version of cgroups (1 or 2) this process can create control
 * groups that limit the resource. Stores the version in `versions`, or 0 if this process can't
 * create such groups (facts/group_place.c). */
void un_group_versions(int versions[UN_GROUP_PARTS]);
/* Prepares the directories in which the control groups of sandboxes will be created. Must be called
 * before this process enters a user namespace. `parts` contains the bit 1 << UN_GROUP_... of each
 * resource to limit. Failures are ignored here, because the start of a sandbox reports them. */
void un_groups_prepare(uint64_t parts);
/* Removes the control groups of sandboxes that have ended. usernsctl-watch, which waits for a
 * sandbox, leaves the control group behind if SIGKILL kills it. `parts` is as for
 * un_groups_prepare(). */
void un_groups_sweep(uint64_t parts);

/* Returns how many processes in this process's control group have been killed by the OOM killer
 * (explain/limits.c), or 0 if the count can't be read. */
uint64_t un_oom_kills(void);
/* Returns how many processes on the host have been killed by the OOM killer. */
uint64_t un_machine_oom_kills(void);

/* ---- causes of runsc's failures (explain/runsc.c) -------------------------------------------- */

/* Exit status of `runsc run` if runsc fails. The command in a sandbox may exit with the same
 * status, so the status alone does not prove that runsc has failed. */
#define UN_RUNSC_FAILED 128
/* Exit status of `runsc run` if runsc crashes, as for every Go program. The command in a sandbox
 * may exit with the same status, so the status alone does not prove a crash. */
#define UN_RUNSC_CRASHED 2

struct un_runsc_failure {
    char what[4096]; /* one line that describes the failure: runsc's message in quotation marks, or
                        how runsc exited without a message */
    bool has_cause;
    struct un_cause cause; /* the cause of the failure, if has_cause is set */
    char remedy[4096];     /* remedy for the user, in one or more lines */
};

/* Searches the message of a failed runsc for known error messages (explain/messages/), and fills in
 * `failure`. `limit` is the id of the cause for a limit that was exceeded, or "". The cause
 * `limit`, or else that of a resource limit of this process that is too low for any sandbox, is
 * reported unless the message has exactly one possible cause. Text that the message quotes from
 * `config`, the untrusted config.json, is ignored; if `config` is NULL, the whole message is
 * ignored. `proc` is "/proc". */
int un_runsc_explain(const char *message, const char *limit, const char *config, size_t size,
                     const char *proc, struct un_runsc_failure *failure, struct un_error *err);
/* Explains why runsc exited without a message, and fills in `failure`. A `status` of 128+N may mean
 * that signal N killed runsc. `limit` and `proc` are as for un_runsc_explain(). */
void un_runsc_explain_silence(int status, const char *limit, const char *proc,
                              struct un_runsc_failure *failure);

/* ---- reading runsc's logs (explain/messages.c, explain/runsc_files.c) ------------------------ */

/* A list of strings, each terminated by NUL, one directly after the other. */
struct un_messages {
    char *bytes;
    size_t size;  /* total size of the strings in bytes */
    size_t count; /* number of strings in `bytes` */
};

/* Extracts the member "msg" of each JSON object in `text`, up to the first malformed object. Skips
 * objects without "msg", and empty messages. Replaces NUL and invalid UTF-8 by U+FFFD. Returns 0,
 * or -1 if memory is exhausted. */
int un_messages_read(const char *text, size_t size, struct un_messages *messages);
void un_messages_free(struct un_messages *messages);

/*
 * The trustworthy parts of runsc's logs, which only runsc itself can have written: the fatal errors
 * of runsc's processes (--log, as JSON), the first line of Go's crash report (--panic-log), and the
 * exit status in the last line of the debug log of `runsc run`. All other lines of the debug logs
 * may contain text of the untrusted bundle and command.
 */
struct un_runsc_logs {
    bool has_ended;     /* whether runsc exited normally after the end of the sandbox */
    const char *reason; /* the message that explains the failure; NULL if no message does */
    /* the fatal errors of all processes of runsc, in the order of the log */
    struct un_messages messages;
    char *crash; /* the first line of the crash report; NULL if runsc did not crash */
};

/* Reads the beginning of the error log and of the crash report, and the end of the debug log. A
 * missing file counts as empty. The path `debug` may contain runsc's placeholder %COMMAND%. Returns
 * 0, or -1 if memory is exhausted. */
int un_runsc_logs_read(const char *errors, const char *crash, const char *debug,
                       struct un_runsc_logs *logs);
void un_runsc_logs_free(struct un_runsc_logs *logs);

/* ---- searching a text for known error messages (explain/search.c) ---------------------------- */

#define UN_CAUSES_MAX 256      /* maximum number of known causes */
#define UN_OCCURRENCES_MAX 512 /* maximum number of occurrences in a struct un_search */

/* A known error message, a hint, or the id of a cause, that a search has found in a text. A hint is
 * a text that does not report a failure, but shows which system has written the searched text. */
struct un_occurrence {
    size_t at;    /* offset of the found text in the searched piece of text */
    bool is_hint; /* whether a hint was found; its causes count only if an error message suggests
                     them, too, and then come first */
    size_t count; /* number of causes in `causes` */
    const char *causes; /* ids of the possible causes, likeliest first; NUL ends each id */
};

/* A search for known error messages in a text that is read in pieces. All bytes must be 0 before
 * the first piece. */
struct un_search {
    size_t count;
    struct un_occurrence occurrence[UN_OCCURRENCES_MAX];
};

/* Searches the next piece of the text for known error messages, hints, and ids of causes, which
 * errors of usernsctl contain. Adds each of them to `search` when it first occurs. The piece may
 * contain any bytes. The time is linear in the size of the piece, and no memory is allocated. */
void un_search_add(struct un_search *search, const char *piece, size_t size);
/* Stores in `ids` the causes that the messages in the text suggest, likeliest first, and returns
 * the number of causes. Causes that a hint suggests, too, come first. The others follow, those of
 * messages with the fewest causes first. */
size_t un_search_causes(const struct un_search *search, const char *ids[UN_CAUSES_MAX]);

/* ---- id maps and their extents (map/idmap.c, sys/map_files.c) -------------------------------- */

#define UN_MAP_MAX 340 /* maximum number of extents in a map; 5 before Linux 4.15 */
/* Size of the longest text of a map: 340 lines of three ten-digit numbers, and a NUL. */
#define UN_MAP_TEXT_MAX 11221

/* An extent of an id map: for each i below `count`, the id `inside` + i in the user namespace is
 * mapped to the id `outside` + i in the parent namespace. */
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

/* The side from which an id is looked up in a map: inside or outside the user namespace. */
enum un_side { UN_INSIDE, UN_OUTSIDE };

/* The uid map and the gid map of a user namespace, indexed by enum un_kind. */
struct un_idmap {
    struct un_map of[2];
};

/* Parses an extent in the form "inside:outside:count". */
int un_extent_parse(const char *text, struct un_extent *extent, struct un_error *err);
int un_map_add(struct un_map *map, struct un_extent extent, struct un_error *err);
/* Checks a map for all faults for which the kernel returns EINVAL (map/idmap.c). The error names
 * the rule that the map violates. */
int un_map_check(const struct un_map *map, uint32_t max_extents, size_t page_size,
                 struct un_error *err);
/* Writes a map to `text` in the format of /proc/PID/uid_map, with a NUL at the end. Returns the
 * length without the NUL. Async-signal-safe. */
size_t un_map_format(const struct un_map *map, char text[UN_MAP_TEXT_MAX]);
/* Parses a map in the format of /proc/PID/uid_map. */
int un_map_parse(const char *text, struct un_map *map, struct un_error *err);
/* Reads a map from a file such as /proc/self/uid_map. The path `name` is relative to the directory
 * that is open as `dir`. */
int un_map_read(int dir, const char *name, struct un_map *map, struct un_error *err);
/* Returns the extent that contains `id` on the side `side` (enum un_side), or NULL if no extent
 * contains it. */
const struct un_extent *un_map_find(const struct un_map *map, int side, uint32_t id);
/* Returns how many consecutive ids, from `id` on and at most `count`, the map treats alike: either
 * a single extent contains all of them on the side `side` (*mapped becomes true), or no extent
 * contains any of them (*mapped becomes false). */
uint32_t un_map_run(const struct un_map *map, int side, uint32_t id, uint32_t count, bool *mapped);
/* Returns whether two maps map the same ids to the same ids. The order of the extents, and how they
 * are split, does not matter. */
bool un_map_equal(const struct un_map *a, const struct un_map *b);

/* ---- subordinate ranges (facts/subid.c) ------------------------------------------------------ */

/* A range of ids: `count` ids, from `start` on. */
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

/* Warnings about malformed lines, and about ranges that are granted to several users. A warning is
 * not a failure. */
struct un_notices {
    uint32_t len;  /* number of warnings in `text` */
    uint32_t more; /* number of warnings that did not fit; the last warning in `text` reports this
                      number */
    char text[UN_NOTICES][UN_NOTICE_MAX];
};

/* Reads the subordinate ranges of a user from a file like /etc/subuid (subuid(5)). A line belongs
 * to the user if its first field is exactly the user's name, or exactly the uid in decimal. A
 * missing file counts as empty. */
int un_subid_read(const char *path, const char *user, uint32_t uid, struct un_ranges *ranges,
                  struct un_notices *notices, struct un_error *err);

/* ---- facts about the caller (facts/) --------------------------------------------------------- */

#define UN_USER_MAX 256
#define UN_PATH_MAX 4096

/* State of a helper, newuidmap or newgidmap, as far as it can be determined without running the
 * program. */
enum un_helper_state {
    UN_HELPER_MISSING, /* PATH contains no executable with the helper's name */
    UN_HELPER_READY,   /* the helper can gain privileges, or is a script, which may execute another
                          program with privileges */
    UN_HELPER_NOT_SETUID, /* the helper neither is setuid root nor has file capabilities */
    UN_HELPER_NOSUID, /* the helper is on a nosuid mount, where setuid bits and file capabilities
                         have no effect */
    UN_HELPER_NOT_EXECUTABLE,
    UN_HELPER_CAPS_ELSEWHERE /* the helper's file capabilities are valid only in another user
                                namespace */
};

struct un_id_facts {
    uint32_t own; /* effective uid or gid of the caller */
    /* map of the caller's user namespace, which has only the ids in this map */
    struct un_map parent;
    struct un_ranges ranges;
    int helper_state;         /* state of newuidmap or newgidmap (enum un_helper_state) */
    char helper[UN_PATH_MAX]; /* path of newuidmap or newgidmap; "" if it is missing */
};

#define UN_GRANT_COUNT 65536 /* number of subordinate ids that useradd(8) grants to a user */

/* Paths of files that list users and grants, indexed by enum un_kind. */
struct un_grant_files {
    const char *subid[2]; /* files in the format of /etc/subuid and /etc/subgid */
    const char *users[2]; /* files in the format of /etc/passwd and /etc/group */
};

/* Stores in *found a range of ids that no grant contains, and that the caller's user namespace maps
 * both as uids and as gids. `parents` are the maps of the caller's user namespace. As useradd(8)
 * does, chooses UN_GRANT_COUNT ids above all granted ids, from 100000 on. If the namespace does not
 * map the ids from 100000 on, chooses unused lower ids, possibly fewer than UN_GRANT_COUNT. Returns
 * false if there are no such ids, or if the grants can't be read. */
bool un_free_ids(const struct un_grant_files *files, const struct un_map *const parents[2],
                 struct un_range *found);

/* All facts about the caller on which a plan of id maps (struct un_plan) depends. */
struct un_facts {
    struct un_id_facts id[2]; /* facts about uids and about gids, indexed by enum un_kind */
    uint64_t caps;    /* effective capabilities of the caller, with bit N for capability N */
    size_t page_size; /* page size in bytes */
    /* The following fields are set by un_facts_read_parents(), which is called only if the plan
     * needs them. */
    bool has_parents; /* whether id[].parent and the kernel version are set */
    uint32_t kernel_major;
    uint32_t kernel_minor;
    /* The following fields are set by un_facts_read_ranges(), which is called only if the plan
     * needs them. */
    bool has_ranges; /* whether id[].ranges and the following fields are set */
    bool no_new_privs;
    bool in_bounding_set;   /* whether the bounding set contains CAP_SETUID and CAP_SETGID, which
                               newuidmap and newgidmap otherwise can't gain */
    char user[UN_USER_MAX]; /* name of the caller's user; "" if the uid has no name */
    int64_t user_gid;       /* gid in the caller's passwd entry; -1 if there is no entry */
    bool any_group; /* whether newuidmap and newgidmap also work for a caller whose gid is not
                       user_gid */
    struct un_notices notices;
};

/* Paths of the files that un_facts_read_ranges() reads; NULL for the default path. */
struct un_sources {
    const char *subid[2]; /* paths of /etc/subuid and /etc/subgid, indexed by enum un_kind */
    const char *passwd;
    const char *nsswitch;
    const char *login; /* path of /etc/login.defs */
    const char *path;  /* search path for newuidmap and newgidmap, separated by colons */
};

/* Reads those facts about the calling process that every plan of id maps needs. */
int un_facts_read(struct un_facts *facts, struct un_error *err);
/* Reads the maps of the caller's user namespace, and the kernel version. */
int un_facts_read_parents(struct un_facts *facts, struct un_error *err);
/* Reads the caller's subordinate id ranges, and the state of newuidmap and newgidmap. */
int un_facts_read_ranges(struct un_facts *facts, const struct un_sources *sources,
                         struct un_error *err);
/* Returns the number of threads of this process, or -1 if /proc can't be read. */
int un_thread_count(void);
/* Returns 1 if the kernel denies this process memory that is both writable and executable
 * (PR_GET_MDWE(2const)), 0 if it does not, or -1 if the kernel does not support the query. */
int un_denies_write_execute(void);
/* Returns the securebits of the calling thread (capabilities(7)), or -1 with errno set. */
int un_securebits(void);
/* Returns the number of capabilities that the kernel supports (capabilities(7)), or -1 if a seccomp
 * filter denies the query. */
int un_capability_count(void);
/* Returns the dumpable attribute of this process (PR_GET_DUMPABLE(2const)), or -1 with errno set.
 * If the attribute is 1, other processes of the same user may ptrace this process. */
int un_dumpable(void);
/* Returns the version of Landlock's ABI (landlock_create_ruleset(2)), or 0 if the kernel has no
 * Landlock or a seccomp filter denies the query. There is no way to query whether Landlock confines
 * this process. */
int un_landlock_version(void);

/* ---- planning id maps (map/plan.c, facts/caller_plan.c) -------------------------------------- */

enum un_setgroups { UN_SETGROUPS_AUTO, UN_SETGROUPS_ALLOW, UN_SETGROUPS_DENY };

/* The process that writes a uid map or gid map. */
enum un_writer {
    UN_WRITER_NONE,   /* the map stays empty, so no process writes it */
    UN_WRITER_SELF,   /* the process in the new user namespace; it may map only its own effective id
                       */
    UN_WRITER_PARENT, /* a process outside the new user namespace; it may write any uid map with
                         CAP_SETUID, and any gid map with CAP_SETGID */
    UN_WRITER_HELPER  /* newuidmap or newgidmap; they map the ids that /etc/subuid or /etc/subgid
                         grants */
};

/* The ids to map in addition to the caller's own id and the extents of the request. */
enum un_fill {
    UN_FILL_NONE,
    UN_FILL_PACKED, /* all ids of the caller's subordinate ranges, mapped to the free ids from 0 on
                     */
    UN_FILL_IDENTITY, /* all ids of the caller's subordinate ranges, each mapped to itself */
    UN_FILL_ALL       /* all ids that the caller's user namespace maps, each mapped to itself */
};

struct un_id_request {
    bool map_self; /* whether to map the caller's own id */
    uint32_t self; /* the id inside the user namespace to which the caller's own id is mapped */
    struct un_map more; /* additional extents to map */
    int fill;           /* which other ids to map in addition (enum un_fill) */
};

struct un_request {
    struct un_id_request id[2]; /* requests for the two maps, indexed by enum un_kind */
    int setgroups;              /* requested policy for setgroups(2) (enum un_setgroups) */
    bool allow_single_id; /* whether to map only the caller's own id if the full request can't be
                             planned */
};

#define UN_HELPER_TIMEOUT_MS 10000

struct un_plan {
    struct un_idmap map;
    int writer[2]; /* the process that writes each map (enum un_writer), indexed by enum un_kind */
    const char *reason[2]; /* why each writer was chosen, in a sentence for users; indexed by enum
                              un_kind */
    char helper[2][UN_PATH_MAX]; /* path of newuidmap or newgidmap, with UN_WRITER_HELPER */
    int helper_timeout_ms;       /* timeout for newuidmap and newgidmap together, in ms */
    struct un_ranges clipped[2]; /* parts of the caller's subordinate ranges that are left out,
                                    because the caller's user namespace does not map them */
    bool single_id; /* whether the plan maps only the caller's own id, because the full request
                       could not be planned */
    struct un_error wanted; /* why the full request could not be planned, if single_id is set */
    int setgroups;     /* policy to write to /proc/PID/setgroups; with UN_SETGROUPS_AUTO nothing is
                          written */
    int64_t become[2]; /* ids to which the process must switch in the user namespace, indexed by
                          enum un_kind; -1 keeps the id */
    bool drop_groups;  /* whether the process must drop its supplementary groups, because its gid in
                          the parent namespace changes and setgroups(2) is allowed */
    bool is_root;      /* whether the caller is uid 0 in the user namespace that it leaves */
};

/* Returns whether planning this request needs the facts of un_facts_read_parents(). */
bool un_plan_needs_parents(const struct un_request *request, const struct un_facts *facts);
/* Returns whether planning this request needs the facts of un_facts_read_ranges(). */
bool un_plan_needs_ranges(const struct un_request *request, const struct un_facts *facts);
/* Chooses the uid map and the gid map for `request`, and the process that writes each map. Reads no
 * files and starts no processes, so the same request and facts always result in the same plan. */
int un_plan_make(const struct un_request *request, const struct un_facts *facts,
                 struct un_plan *plan, struct un_error *err);
const char *un_writer_name(int writer);
/* Returns whether the process in the new user namespace can write its maps without the help of
 * another process. Async-signal-safe. */
bool un_plan_writes_itself(const struct un_plan *plan);

/* Plans how to join the user namespace of a descendant of the caller. `dir` is a descriptor of the
 * descendant's /proc directory. Stores in `plan` the maps of the namespace, the ids to switch to,
 * and whether to drop the supplementary groups. */
int un_plan_to_join(int dir, struct un_plan *plan, struct un_error *err);
/* Plans the id maps of a user namespace that the calling process will create: reads the facts that
 * `request` needs, and calls un_plan_make(). */
int un_plan_for_caller(const struct un_request *request, const struct un_sources *sources,
                       struct un_facts *facts, struct un_plan *plan, struct un_error *err);

/* ---- writing id maps (sys/map_files.c, ns/helper.c) ------------------------------------------ */

/* Writes setgroups, uid_map and gid_map, in this order. `dir` is a descriptor of the /proc
 * directory that contains the three files. Skips maps that newuidmap or newgidmap writes.
 * Async-signal-safe. */
int un_write_maps(int dir, const struct un_plan *plan, struct un_error *err);
/* Runs newuidmap and newgidmap in parallel. `dir` is a descriptor of the /proc directory of the
 * target, the process in the new user namespace. The target must be an unreaped child of the
 * caller, so that its pid can't be reused. */
int un_run_helpers(int dir, const struct un_plan *plan, struct un_error *err);
/* Reads the uid map and the gid map of a process, and fails if they differ from the maps in `plan`.
 * `dir` is a descriptor of the process's /proc directory. */
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

/* Descriptors of namespaces, indexed by enum un_ns; -1 for a type whose namespace is the
 * caller's. */
struct un_namespace {
    int fd[UN_NS_COUNT];
};

/* Returns the CLONE_NEW... flag of a type of namespaces (enum un_ns). */
uint64_t un_ns_flag(int ns);
/*
 * In the following functions, `child` is the path of the child program, usernsctl-child.
 *
 * Root in a user namespace may ptrace any process that joins it. So a process first executes the
 * child program, and then joins: its memory and its descriptors then contain nothing of the caller.
 * A static program that calls un_child_main() can pass its own path, "/proc/self/exe".
 */

/* Creates a user namespace with the id maps of `plan`, and the other namespaces in `flags`
 * (CLONE_NEW...), and opens descriptors of all these namespaces. No process stays in the
 * namespaces. CLONE_NEWPID fails with EINVAL, because a PID namespace can't outlive its PID 1. */
int un_namespace_create(const struct un_plan *plan, uint64_t flags, const char *child,
                        struct un_namespace *ns, struct un_error *err);
void un_namespace_close(struct un_namespace *ns);
/* Makes this process non-dumpable (PR_SET_DUMPABLE(2const)), and then moves it into the namespaces,
 * the user namespace first. Processes in the namespaces can't ptrace a non-dumpable process. The
 * caller must have closed all descriptors that these processes must never obtain.
 * Async-signal-safe. */
int un_namespace_join(const struct un_namespace *ns, struct un_error *err);
/* Moves this process, which must be single-threaded, into new namespaces. If `plan` is NULL,
 * creates no user namespace. The process becomes non-dumpable; it is dumpable only while it opens
 * its uid_map, gid_map and setgroups. If `is_private` is set, or another process has to write the
 * maps, the child program creates the user namespace instead, and this process is never
 * dumpable. */
int un_enter(const struct un_plan *plan, uint64_t flags, const char *child, bool is_private,
             struct un_error *err);

/* ---- setup inside the namespaces (sys/setup.c, sys/mount.c) ---------------------------------- */

#define UN_GROUPS_MAX 65536 /* maximum number of supplementary groups (NGROUPS_MAX) */

/* The steps by which a process prepares itself, in its namespaces, for the execve(2) of the
 * command. They are performed in the order of the fields. NULL, 0, false or -1 skips a step. */
struct un_setup {
    bool own_stdio;
    unsigned long propagation; /* propagation type to set on all mounts, such as MS_PRIVATE */
    const char *root;          /* new root directory (chroot(2)) */
    const char *mount_proc;    /* path below `root` on which to mount a new procfs */
    const char *cwd;           /* new working directory (chdir(2)) */
    uint64_t drop_bounding; /* capabilities to drop from the bounding set (bit N: capability N) */
    bool no_new_privs;      /* whether to set no_new_privs (PR_SET_NO_NEW_PRIVS(2const)) */
    bool no_membarrier;     /* whether to call un_add_membarrier_filter() */
    const gid_t *groups;    /* supplementary groups to set (setgroups(2)) */
    int32_t group_count;    /* number of gids in `groups`; -1 keeps the current groups */
    int64_t gid;            /* gid to switch to (setresgid(2)); -1 keeps the gid */
    int64_t uid;            /* uid to switch to (setresuid(2)); -1 keeps the uid */
    bool keep_caps; /* whether to keep the capabilities across execve(2), by the ambient set */
    int pdeathsig;  /* signal to receive when the parent dies (PR_SET_PDEATHSIG(2const)); 0 for none
                     */
    int parent_pidfd; /* pidfd of the parent; shows whether the parent died before PR_SET_PDEATHSIG
                         took effect */
};

void un_setup_init(struct un_setup *setup);
/* Performs the setup in the order of the fields of `setup`. A non-dumpable process stays
 * non-dumpable. Async-signal-safe. */
int un_setup_apply(const struct un_setup *setup, struct un_error *err);
/* Calls mount(2). On failure, fills in `err`. Async-signal-safe. */
int un_mount(const char *source, const char *target, const char *type, unsigned long flags,
             const char *data, struct un_error *err);
/* Bind-mounts the file or directory `source`, with all mounts below it, on `target`. Both are
 * descriptors of files of the same type (O_PATH suffices) in this mount namespace. The mount has
 * the attributes `attributes` (MOUNT_ATTR_... of mount_setattr(2)) as soon as it is visible. Error
 * messages call the mount `name`. Before Linux 5.12, fails with the cause
 * mount-by-descriptor-missing. */
int un_bind(int source, int target, uint64_t attributes, const char *name, struct un_error *err);
/* Sets and clears attributes (`set` and `clear`) on the mount whose root is open as `top`, and on
 * all mounts below it. Before Linux 5.12, fails with the same cause as un_bind(). */
int un_mount_restrict(int top, uint64_t set, uint64_t clear, const char *name,
                      struct un_error *err);

/* ---- running a command (sys/exec.c, sys/fds.c, sys/supervise.c, ns/spawn.c) ------------------ */

struct un_command {
    const char *file;        /* path of the command, or a name to search for in `path` */
    const char *path;        /* search path, separated by colons; NULL means /bin:/usr/bin */
    const char *const *argv; /* arguments of the command, terminated by NULL */
    const char *const *envp; /* environment of the command, terminated by NULL */
};

/* Executes a command. Returns only on failure, with -1. Async-signal-safe. */
int un_exec(const struct un_command *command, struct un_error *err);
/* Closes all descriptors from 3 on except those in `keep`, and clears close-on-exec on the
 * descriptors in `keep`, which must be sorted and without duplicates. Async-signal-safe. */
int un_close_fds(const int *keep, size_t keep_count, struct un_error *err);

#define UN_START_TIMEOUT_MS 30000

struct un_spawn {
    const char *child;          /* path of usernsctl-child; NULL for a bare command (un_spawn()) */
    const struct un_plan *plan; /* plan for a new user namespace; NULL if none is created */
    const struct un_namespace *join; /* namespaces to join first; NULL if none is joined */
    uint64_t flags; /* CLONE_NEW... flags of the namespaces to create besides the user namespace */
    bool has_init;  /* whether PID 1 of the new PID namespace (CLONE_NEWPID) is a separate process:
                       it forks the command, forwards signals to it, reaps orphans, and exits with
                       the command's status, or 128+N if signal N killed the command */
    int cgroup; /* directory descriptor of the cgroup (version 2) in which to start the child; -1
                   for the caller's cgroup */
    struct un_setup setup;
    struct un_command command;
    int stdio[3]; /* descriptors that become standard input, output and error; -1 keeps the caller's
                   */
    bool close_fds;  /* whether to close all descriptors from 3 on except those in `keep` */
    const int *keep; /* other descriptors that the command inherits, sorted, no duplicates */
    size_t keep_count;
    bool restore_signals; /* whether to reset SIGPIPE and SIGXFSZ, which Python ignores, to the
                             default action */
    int start_timeout_ms; /* timeout in milliseconds for the execve(2) of the command; -1 for none
                           */
    const uint64_t *signals; /* signal mask of the command; NULL for the caller's mask */
    bool new_session;        /* whether to start a new session (setsid(2)) */
    int process_group; /* process group for the command (setpgid(2)); -1 keeps the caller's group */
    int umask;         /* umask of the command (umask(2)); -1 keeps the caller's umask */
};

void un_spawn_init(struct un_spawn *spawn);
/*
 * Starts a command in a child. On success, the execve(2) of the command has succeeded, *pid is the
 * pid of the command, and *pidfd refers to it. On failure, no process remains.
 *
 * Safe to call from any thread; pthread_cancel(3) takes effect only after the call. The time does
 * not depend on the size of the caller's memory. Root in a namespace that is joined can stop the
 * child before it executes the command, so this function kills the child when the start timeout
 * expires.
 *
 * A bare command changes no namespace, root directory, ids or capabilities, and the child executes
 * it directly. For any other command, the child executes the child program, which enters the
 * namespaces and then executes the command.
 */
int un_spawn(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);
/* Returns the wait status (waitpid(2)) of a process that has already been reaped, for example by
 * the kernel because SIGCHLD is ignored. Returns -1 on a kernel without PIDFD_INFO_EXIT, which is
 * new in Linux 6.15. */
int un_lost_status(int pidfd);
/* The resource usage of a process and of all its reaped descendants (getrusage(2)). */
struct un_usage {
    int64_t user_us;   /* CPU time in user mode, in microseconds */
    int64_t system_us; /* CPU time in the kernel, in microseconds */
    int64_t max_kib;   /* peak of resident memory of the process that used most, in KiB */
};
/* Reaps a child if it has exited, and stores its resource usage in `usage`. Does not wait
 * (WNOHANG). Returns 0 if the child was reaped. Returns -1 with errno set if waitid(2) fails, for
 * example because the child was reaped before; returns -1 and leaves errno unchanged if the child
 * still runs. */
int un_reap_exited(int pidfd, struct un_usage *usage);
/*
 * Acts as PID 1 of a PID namespace, for the command `child`. Does not return.
 *
 * Forwards signals to the command, reaps all children, and exits with the command's status, or with
 * 128+N if signal N killed the command, because PID 1 can't kill itself with a signal. The kernel
 * then kills all other processes of the namespace (pid_namespaces(7)).
 *
 * All signals must have been blocked since before `child` was forked, and SIGCHLD must not be
 * ignored. Closes all descriptors except `report`, a pipe to which each wait status of the command
 * is written (an int, as of waitpid(2)); -1 if there is no pipe.
 */
void un_be_init(pid_t child, int report);
/* Kills this process, without a core dump, by `sig`, the signal that has killed this process's
 * child. Returns only on failure: in PID 1 of a PID namespace, the kernel ignores the signal. */
void un_reraise(int sig);
/* Waits for a child on behalf of this process's parent, as usernsctl-exec --fork does, and forwards
 * signals to the child. Signals that arrived before the call are forwarded, too, if they have been
 * blocked since the fork. Reaps all other children as well, so this process must not wait for them
 * itself. Returns the wait status of the child (waitpid(2)). */
int un_supervise_child(pid_t child);

/* ---- users and groups of a sandbox (base/accounts.c) ----------------------------------------- */

/* Maximum size of /etc/passwd and /etc/group in a sandbox, in bytes: enough for more than 100,000
 * users. */
#define UN_ACCOUNT_FILE_MAX 8388608
/* Maximum number of groups of a user. */
#define UN_ACCOUNT_GROUPS_MAX 4096

/* The content of /etc/passwd or /etc/group of a sandbox. */
struct un_account_file {
    const char *bytes; /* content of the file; NULL if the file is missing */
    size_t length;
};

/* A user of a sandbox. */
struct un_account {
    uint32_t id[2]; /* uid and gid of the user, indexed by UN_UID and UN_GID */
    uint32_t groups[UN_ACCOUNT_GROUPS_MAX]; /* supplementary groups, in ascending order */
    size_t group_count;
    char home[UN_PATH_MAX]; /* home directory in /etc/passwd; "" if missing or invalid */
};

/* Finds a user and a group, each given by name or by id. If `group` is NULL, the gid and the
 * supplementary groups depend on how the user is given. A user given by name has the gid in
 * /etc/passwd, and is in all groups that list the user. A user given by uid has a gid equal to the
 * uid. If several lines have the same name, the first line counts, as for getpwnam(3). Malformed
 * lines are skipped. */
int un_account_find(const char *user, const char *group, const struct un_account_file *passwd,
                    const struct un_account_file *groups, struct un_account *account,
                    struct un_error *err);

/* ---- the filesystem of a sandbox (launch/view.c, launch/command.c) --------------------------- */

/* The directory tree that a sandbox will have: a root filesystem, and the mounts that runsc adds to
 * it. */
struct un_view;

/* Creates the view of a root filesystem. Takes ownership of `top`, an O_PATH descriptor of its root
 * directory. Returns 0, or -1 with errno set. */
int un_view_new(int top, struct un_view **view);
/* Adds a mount that runsc will create on `inside`, a path without symbolic links, unless the view
 * already has a mount there. Takes ownership of `fd`, an O_PATH descriptor of the mounted file.
 * `source` is the path of that file on the host, or "" if the host has no such file. Returns 0, or
 * -1 with errno set. */
int un_view_add(struct un_view *view, const char *inside, const char *source, int fd);
/* Sets the ids that the sandbox maps. Directories of these users and groups then count as
 * searchable in the sandbox, even if this process can't search them. Returns 0, or -1 with errno
 * set. */
int un_view_set_owners(struct un_view *view, const struct un_idmap *ids);
/* Frees the view *view, and sets *view to NULL. Does nothing if *view is NULL. */
void un_view_free(struct un_view **view);

/* The result of resolving a path in a sandbox. */
struct un_reached {
    int errnum;      /* errno of the failed path resolution; 0 on success */
    bool is_certain; /* whether resolving the path in the sandbox will certainly fail with the same
                        errno */
    bool is_of_gvisor; /* whether the path resolves to a filesystem that gVisor itself provides */
    bool is_implicit;  /* whether the path's last component is a directory that gVisor creates as
                          a parent of a mount point */
    int fd; /* O_PATH descriptor of the file to which the path resolves, for the caller to close;
               -1 if the file can't be opened */
    char inside[UN_PATH_MAX];  /* path in the sandbox of the last component that exists, without
                                  symbolic links */
    char missing[UN_PATH_MAX]; /* rest of the path, which does not exist; "" if all of it exists */
};

/* Resolves a path and its symbolic links as gVisor's kernel will. A relative path begins at the
 * directory `start` of the sandbox. Returns reached->fd, or -1 on failure. */
int un_view_follow(const struct un_view *view, const char *start, const char *path,
                   struct un_reached *reached);
/* Returns whether the sandbox will have a directory at the absolute path `inside`. */
bool un_view_has_directory(const struct un_view *view, const char *inside);

/* The reason why a command can't start in a sandbox. */
struct un_command_fault {
    int step;               /* UN_STEP_LOOKUP if the command is not found, otherwise UN_STEP_EXEC */
    int errnum;             /* the errno with which execve(2) will fail in the sandbox */
    char path[UN_PATH_MAX]; /* path in the sandbox of the file that can't be executed, or the
                               command as given by the caller */
    char reason[4 * UN_PATH_MAX];  /* explanation in one sentence; "" for UN_STEP_LOOKUP */
    const char *remedy;            /* remedy for the user; "" if it depends on the caller */
    char interpreter[UN_PATH_MAX]; /* path in the sandbox to a script's missing interpreter; "" for
                                      any other fault */
};

/* Returns whether the start of a command in a sandbox would certainly fail, because the command is
 * not in the search path `search` or can't be executed. If so, fills in `fault`. `cwd` is the
 * working directory in the sandbox. A file that only gVisor or other users can read counts as
 * executable. */
bool un_view_check_command(const struct un_view *view, const char *command, const char *search,
                           const char *cwd, struct un_command_fault *fault);

/* ---- performing launches (launch/) ----------------------------------------------------------- */

/*
 * A launch is a sequence of NUL-terminated strings that describes all steps from a request to the
 * execve(2) of runsc. The strings form records, and launch/verbs.h lists the kinds of records.
 *
 * The Python package or usernsctl-exec composes a launch. The following functions perform the
 * launch: they open the host files that its `source` records name, then (after the caller has
 * entered the namespaces) build the root filesystem and the other files, and finally execute
 * usernsctl-watch, which starts runsc and waits for its exit.
 */
#define UN_LAUNCH_MAX 33554432     /* maximum size of a launch in bytes */
#define UN_LAUNCH_WORDS_MAX 262144 /* maximum number of strings in a launch */

/* Maximum number of descriptors (RLIMIT_NOFILE) of each process of a sandbox on the host. gVisor's
 * kernel needs two or three for each open file of the host, as many for each file in its dentry
 * cache (runsc --dcache), and one for each socket if the sandbox uses the host's network. */
#define UN_SANDBOX_FILES_MAX 16384

struct un_launch;

/* Parameters of a launch that are known only when the launch is performed. */
struct un_launch_params {
    const char *const *args;  /* the command and its arguments, terminated by NULL */
    const char *const *env;   /* the environment of the command, terminated by NULL */
    const char *cwd;          /* the working directory of the command, as a path in the sandbox */
    const char *hostname;     /* host name in the sandbox; NULL for none */
    const char *const *homes; /* paths of the caller's home directories, terminated by NULL */
    uint32_t id[2];           /* the uid and the gid of the command, indexed by UN_UID and UN_GID */
    const uint32_t *groups; /* supplementary groups of the command; empty if the user namespace maps
                               only one id */
    size_t group_count;
    bool terminal;       /* whether the command uses the terminal of this process */
    bool reraise_signal; /* whether usernsctl-watch kills itself with signal N if signal N killed
                            the command, instead of exiting with status 128+N */
    bool log_json;       /* whether usernsctl-watch prints its messages as JSON */
    /* additional options of usernsctl-watch, terminated by NULL; NULL for none */
    const char *const *watch_options;
    const int *watch_fds; /* additional descriptors that usernsctl-watch inherits */
    size_t watch_fd_count;
};

/* Returns whether standard input, output and error are all the same terminal. gVisor supports only
 * one terminal for a command, and uses one of the three descriptors for it. */
bool un_stdio_is_terminal(void);
/* Opens /dev/null as each of the descriptors 0 to 2 that is closed. Must be called before this
 * process opens any file, because that file would otherwise become the standard input, output or
 * error of the command. */
int un_open_missing_stdio(struct un_error *err);
/* Parses a launch and stores it in *launch. `bytes` must stay valid until the launch is closed. */
int un_launch_parse(const void *bytes, size_t size, struct un_launch **launch,
                    struct un_error *err);
/* Fails if a seccomp filter forbids a system call that is needed to start a sandbox, or if there is
 * a filter, but no child can be created to try these calls (cause process-limit). Must be called
 * before the first of these system calls: a process that the filter kills can't report the
 * cause. */
int un_filter_check_launch(struct un_error *err);
/* Fails if a seccomp filter forbids a system call that `usernsctl doctor` makes itself
 * (un_filter_forbids()). Also fails, with the cause process-limit, if no child can be created to
 * try these calls. Always succeeds if this process has no filter. */
int un_filter_check_doctor(struct un_error *err);
/* Opens the host files that the launch's `source` records name, checks them against the launch's
 * `assume` records, and, if the launch has records for that, prepares control groups and sets the
 * OOM score adjustment of this process. Must be called before this process enters the namespaces.
 * `fds` contains, for each `source` record, a descriptor that the caller continues to own, or -1
 * for a file that this function opens. If `fds` is NULL, this function opens all files. */
int un_launch_open(struct un_launch *launch, const int *fds, struct un_error *err);
/* Directories that must never be visible in a sandbox. */
struct un_hidden {
    const char *state; /* state directory, which contains the records of running sandboxes */
    /* directory of templates, which are checkpoints; NULL if there is none */
    const char *templates;
};

/* Fails if a program in the sandbox could see one of the hidden directories, or could write to
 * `file`, from which the launch was read, or to the directory of `file`. Must be called after
 * un_launch_open(). */
int un_launch_guard(struct un_launch *launch, int file, const struct un_hidden *hidden,
                    struct un_error *err);
/* Builds the root filesystem and the other files of the sandbox in this mount namespace, whose
 * mounts must be private. On failure, no mount remains. */
int un_launch_build(struct un_launch *launch, const struct un_launch_params *params,
                    struct un_error *err);
/* Writes config.json, drops privileges, and executes usernsctl-watch, which starts runsc. Returns
 * only on failure, with -1; privileges may have been dropped by then. */
int un_launch_exec(struct un_launch *launch, const struct un_launch_params *params,
                   struct un_error *err);
/* Closes the descriptors of a launch and frees it. Its mounts remain. Does nothing if `launch` is
 * NULL. */
void un_launch_close(struct un_launch *launch);

/* Returns the directory tree that the sandbox of a launch will have. The launch owns the result. */
const struct un_view *un_launch_view(const struct un_launch *launch);
/* un_launch_remedy() returns the remedy for the last failure of the launch, and
 * un_launch_filename() the path of the file at fault. Both return NULL if the launch has recorded
 * none. Without a recorded remedy, the remedy of the error's cause applies. */
const char *un_launch_remedy(const struct un_launch *launch);
const char *un_launch_filename(const struct un_launch *launch);

/* Fails if a bind mount of one of `count` files would expose `directory`, which need not exist yet.
 * A file exposes the directory if the file contains the directory, is inside it, or contains a
 * symbolic link that is a component of the directory's path. `fds` are descriptors of the files,
 * and `names` their names in the error message. Stores the index of the exposing file in *which. */
int un_refuse_to_show(const int *fds, const char *const *names, size_t count, const char *directory,
                      size_t *which, struct un_error *err);
/* Determines whether a bind mount of an open file or directory would expose an interface of the
 * host's kernel, such as /proc, /sys or /dev. That is the case if the file is on such a filesystem,
 * even if it was opened through another mount, or if such a filesystem is mounted below the
 * directory. Stores the name of the interface in *part, or NULL if there is none. Returns 0, or -1
 * with errno set. */
int un_machine_part(int fd, const char **part);
/* Returns whether a symbolic link that the user `uid` owns may be followed. `path` is the link's
 * path with all other symbolic links resolved. */
bool un_owner_is_trusted(uid_t uid, const char *path);
/* Returns whether the mode or the ACL of an open directory permits users other than the caller and
 * root to write to it. Write permission of the owning group does not count if the group is root's,
 * or if its gid equals the caller's uid and /etc/group lists no members of the group. */
bool un_others_may_write(int directory);
/* Size in bytes of a checksum as text, with its NUL. */
#define UN_CONTENT_SUM_ROOM 17
/* Writes a checksum of an open file's content to `text`. O_PATH suffices for the descriptor. A file
 * of up to 256 KiB is read whole; of a larger file, only the head and samples are read
 * (launch/content.c). Returns 0, or -1 with errno set. */
int un_content_sum(int fd, char text[UN_CONTENT_SUM_ROOM]);
/* Sets O_APPEND on a descriptor of a regular file that is open for writing, if the file offset is
 * at the end of the file. Without O_APPEND, gVisor would overwrite the file from its beginning.
 * Returns 0, or -1 with errno set if the descriptor is not open. */
int un_append_at_end(int fd);

#endif
