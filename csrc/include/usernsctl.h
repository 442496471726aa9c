/*
 * Interface of usernsctl's core, which creates and maps user namespaces without privileges.
 *
 * This header is the complete interface of the core, and internal to the wheel: only the Python
 * package and the programs of the package include it, so it may change with each release. The
 * Python binding parses this file, so the declarations are limited to what cffi understands:
 * numbers, structs, enums and functions.
 *
 * Conventions - A function that can fail returns 0 on success, or -1 after filling in the struct
 * un_error that is its last argument. No function prints, exits, or keeps state between calls. -
 * "Async-signal-safe" is meant as in signal-safety(7): the function neither allocates nor locks, so
 * it may run in a child that still shares its parent's memory. - Descriptors that a function opens
 * are close-on-exec. - The kernel's rules are documented in user_namespaces(7). If some supported
 * kernels lack a rule, the comment names the kernel version that introduced the rule.
 */
#ifndef USERNSCTL_H
#define USERNSCTL_H

/* Other architectures are rejected, because gVisor supports only these two, and the tests run on no
 * others. */
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
    UN_STEP_ARGUMENT,    /* the request is invalid */
    UN_STEP_FACTS,       /* reading the ids, the capabilities and the namespace of the caller */
    UN_STEP_SUBID,       /* reading the subordinate id ranges */
    UN_STEP_PLAN,        /* choosing the maps and their writers */
    UN_STEP_CLONE,       /* calling clone3(2) */
    UN_STEP_CGROUP,      /* starting a process in another control group */
    UN_STEP_UNSHARE,     /* creating a namespace */
    UN_STEP_SETNS,       /* joining a namespace */
    UN_STEP_SETGROUPS,   /* writing /proc/PID/setgroups, or calling setgroups(2) */
    UN_STEP_UID_MAP,     /* writing /proc/PID/uid_map */
    UN_STEP_GID_MAP,     /* writing /proc/PID/gid_map */
    UN_STEP_HELPER,      /* running newuidmap or newgidmap */
    UN_STEP_PROPAGATION, /* setting the mount propagation */
    UN_STEP_MOUNT,       /* calling mount(2) */
    UN_STEP_ROOT,        /* changing the root directory (chroot(2)) */
    UN_STEP_CWD,         /* changing the working directory (chdir(2)) */
    UN_STEP_SETRESGID,
    UN_STEP_SETRESUID,
    UN_STEP_CAPABILITIES,
    UN_STEP_SESSION,
    UN_STEP_PDEATHSIG,
    UN_STEP_STDIO,   /* preparing standard input, output and error */
    UN_STEP_FDS,     /* passing descriptors to the command, and closing all others */
    UN_STEP_LOOKUP,  /* searching PATH for the command */
    UN_STEP_EXEC,    /* executing the command (execve(2)) */
    UN_STEP_WAIT,    /* waiting for a child */
    UN_STEP_LAUNCH,  /* parsing a launch */
    UN_STEP_SANDBOX, /* creating the files of a sandbox */
    UN_STEP_ROOTFS,  /* building the root filesystem of a sandbox */
    UN_STEP_HOME,    /* hiding a home directory in the root filesystem */
    UN_STEP_BIND,    /* bind-mounting a file into the root filesystem */
    UN_STEP_CONFIG,  /* writing config.json of a sandbox */
    UN_STEP_RUNSC,   /* executing the program that starts runsc */
    UN_STEP_NETWORK, /* creating the network of a sandbox */
    UN_STEP_USER, /* finding the user of a command in /etc/passwd and /etc/group of the sandbox */
    UN_STEP_COUNT
};

struct un_error {
    int step;                   /* step that failed (enum un_step) */
    int errnum;                 /* errno of the failed call; 0 if no call failed */
    const char *cause;          /* id of a struct un_cause; NULL if the cause is unknown */
    char detail[UN_DETAIL_MAX]; /* object of the failure, such as a path, an extent or a helper's
                                   message */
    char remedy[UN_DETAIL_MAX]; /* remedy for this failure; "" if the remedy of the cause applies */
};

/* The cause of a failure, as explained to the user. */
struct un_cause {
    const char *id;     /* id of the cause, which never changes after a release */
    const char *why;    /* explanation in one or two sentences */
    const char *remedy; /* instructions for the user, with a shell command where one exists */
};

/* Returns the version of the package. */
const char *un_version(void);
/* Closes the descriptor *fd unless it is -1, and sets *fd to -1. Several threads may call this
 * function with the same `fd`, because only one of them then closes the descriptor. */
void un_close_fd(int *fd);
/* Returns the name of a step (enum un_step), such as "uid_map". */
const char *un_step_name(int step);
/* Finds the cause with the given id, and copies it to `cause`. Returns whether the id exists. */
bool un_cause_find(const char *id, struct un_cause *cause);
/* Describes an error in one line, which consists of the error's detail and the text of its errno.
 * Writes the line to `text`, and returns `text`. */
const char *un_error_reason(const struct un_error *err, char *text, size_t size);
/* Sets the cause of an error that has no cause yet, if facts in the proc file system `proc`
 * ("/proc") that are cheap to read prove a cause. The process that failed must call this function
 * right after the failure. */
void un_diagnose(struct un_error *err, const char *proc);
/* Returns the exit status for a failure before the command ran: 127 if the command was not found,
 * 126 if the command could not be executed, 125 for any other failure. */
int un_exit_status(const struct un_error *err);

/* ---- limits of the control group (facts/control_group.c) ------------------------------------- */

struct un_group_limits {
    uint64_t memory;     /* memory limit in bytes; UINT64_MAX for no limit */
    uint64_t processors; /* number of processors, which is the quota of processor time, rounded up;
                            UINT64_MAX for no limit */
};

/* Reads the memory size and the number of processors that a program in a sandbox sees. Both are the
 * machine's, unless this process's control group or a parent of the group has a lower limit. A
 * cpuset of the control group counts as a limit, because it restricts the processors on which this
 * process may run. */
void un_seen_limits(struct un_group_limits *limits);

/* Memory, tasks and processor time that the processes of a sandbox use at present. */
struct un_sandbox_usage {
    uint64_t memory; /* bytes of memory: the memory of the programs inside, and the anonymous memory
                        and page tables of all processes of the sandbox */
    uint64_t tasks; /* number of processes and threads of gVisor's kernel, and of the processes that
                       gVisor's kernel has started */
    uint64_t time;  /* processor time of the processes that still exist, in microseconds */
};

/* Measures the resource usage of the sandbox whose main processes are children of the process
 * `parent` (facts/usage.c). Returns 0, or -1 with errno set, which is ESRCH if gVisor's kernel does
 * not run, and EACCES if its files in /proc can't be read. */
int un_sandbox_usage(int parent, struct un_sandbox_usage *usage);

/* The resources of a sandbox that a control group can limit. */
enum un_group_part { UN_GROUP_MEMORY, UN_GROUP_PIDS, UN_GROUP_CPU, UN_GROUP_PARTS };

/* Finds out for each resource by which version of control groups (1 or 2) this process can limit
 * the resource. Writes the versions to `versions`, or 0 for a resource for which this process may
 * not create a control group (facts/group_place.c). */
void un_group_versions(int versions[UN_GROUP_PARTS]);
/* Prepares the directories in which control groups will be created, before this process enters a
 * user namespace. `parts` has bit 1 << UN_GROUP_... for each resource to limit. Failures are
 * ignored, because the start of a sandbox reports them. */
void un_groups_prepare(uint64_t parts);
/* Removes leftover control groups of sandboxes whose watcher was killed by SIGKILL before it could
 * remove the groups. `parts` is as for un_groups_prepare(). */
void un_groups_sweep(uint64_t parts);

/* Returns how many processes of this process's control group the kernel has killed because memory
 * ran out (explain/limits.c), or 0 if the counter can't be read. */
uint64_t un_oom_kills(void);
/* Returns how many processes the kernel of this machine has killed because memory ran out. */
uint64_t un_machine_oom_kills(void);

/* ---- runsc's failures (explain/runsc.c) ------------------------------------------------------ */

/* Exit statuses of `runsc run` if runsc has failed, and if runsc has crashed (2, as for every Go
 * program). The command in the sandbox may exit with the same statuses, so a status alone does not
 * prove a failure of runsc. */
#define UN_RUNSC_FAILED 128
#define UN_RUNSC_CRASHED 2

struct un_runsc_failure {
    char what[4096]; /* one line: runsc's message in quotation marks, or a description of an exit
                        without a message */
    bool has_cause;  /* whether the cause of the failure is known */
    struct un_cause cause; /* the cause of the failure, if has_cause is set */
    char remedy[4096];     /* instructions for the user, which may have several lines */
};

/* Finds the cause of a failure of runsc by searching runsc's message for the messages of the
 * catalogue. `limit` is the id of the cause of a limit that was exceeded, or ""; if the message has
 * several possible causes, and `limit` is one of them, `limit` is chosen. Text that the message
 * quotes from the untrusted config.json is ignored; if `config` is NULL, the entire message is
 * ignored. `proc` is "/proc". */
int un_runsc_explain(const char *message, const char *limit, const char *config, size_t size,
                     const char *proc, struct un_runsc_failure *failure, struct un_error *err);
/* Explains why runsc exited without a message. An exit status `status` of 128+N may mean that
 * signal N killed runsc. `limit` and `proc` are as for un_runsc_explain(). */
void un_runsc_explain_silence(int status, const char *limit, const char *proc,
                              struct un_runsc_failure *failure);

/* ---- output of runsc (explain/messages.c, explain/runsc_files.c) ----------------------------- */

/* A list of strings, stored one after the other, each terminated by NUL. */
struct un_messages {
    char *bytes;
    size_t size;  /* total size of the strings, in bytes */
    size_t count; /* number of strings in `bytes` */
};

/* Extracts the member "msg" of each JSON object in `text`, up to the first malformed object.
 * Objects without "msg" and empty messages are skipped. NUL and invalid UTF-8 become U+FFFD.
 * Returns 0, or -1 if memory is exhausted. */
int un_messages_read(const char *text, size_t size, struct un_messages *messages);
void un_messages_free(struct un_messages *messages);

/*
 * The parts of runsc's logs that only runsc itself can have written: the fatal errors of runsc's
 * processes (--log, as JSON), the first line of Go's crash report (--panic-log), and the exit
 * status in the last line of runsc's own debug log. Other lines of the debug logs may quote the
 * untrusted bundle and command.
 */
struct un_runsc_logs {
    bool has_ended;              /* whether runsc exited normally, after the sandbox had ended */
    const char *reason;          /* the message that explains the failure; NULL if there is none */
    struct un_messages messages; /* all fatal errors of runsc's processes, in order */
    char *crash; /* the first line of the crash report; NULL if runsc has not crashed */
};

/* Reads the beginning of the error log and of the crash report, and the end of the debug log.
 * Missing files count as empty. The path `debug` may contain runsc's placeholder %COMMAND%. Returns
 * 0, or -1 if memory is exhausted. */
int un_runsc_logs_read(const char *errors, const char *crash, const char *debug,
                       struct un_runsc_logs *logs);
void un_runsc_logs_free(struct un_runsc_logs *logs);

/* ---- messages of other programs (explain/search.c) ------------------------------------------- */

#define UN_CAUSES_MAX 256      /* room for all causes of the catalogue */
#define UN_OCCURRENCES_MAX 512 /* room for all messages, hints and causes of the catalogue */

/* An occurrence of a message or hint of the catalogue, or of the id of a cause, in a text. */
struct un_occurrence {
    size_t at;    /* offset of the occurrence in the searched piece of text */
    bool is_hint; /* whether this is an occurrence of a hint, which adds no cause, but moves its
                     causes to the front */
    size_t count; /* number of causes in `causes` */
    const char *causes; /* ids of the possible causes, likeliest first, each terminated by NUL */
};

/* A search for all messages of the catalogue in a text that is read in pieces. Must be zeroed
 * before the first piece. */
struct un_search {
    size_t count;
    struct un_occurrence occurrence[UN_OCCURRENCES_MAX];
};

/* Searches a further piece of the text for messages, hints and ids of causes (which the errors of
 * usernsctl contain), and adds those to `search` that no earlier piece contained. The piece may
 * contain any bytes. Takes time linear in the size of the piece, and allocates no memory. */
void un_search_add(struct un_search *search, const char *piece, size_t size);
/* Lists the possible causes that all pieces of the text suggest, likeliest first, and returns the
 * number of causes. Causes that a hint names come first, then the causes of the messages with the
 * fewest causes. */
size_t un_search_causes(const struct un_search *search, const char *ids[UN_CAUSES_MAX]);

/* ---- extents and maps (map/idmap.c, sys/map_files.c) ----------------------------------------- */

#define UN_MAP_MAX 340 /* maximum number of extents in a map; 5 before Linux 4.15 */
/* Size of the longest text of a map, which has 340 lines of three ten-digit numbers, and a NUL. */
#define UN_MAP_TEXT_MAX 11221

/* An extent of a map, which maps `count` ids from `inside` on to `count` ids from `outside` on. */
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

/* The side of a map from which an id is seen: inside or outside the user namespace. */
enum un_side { UN_INSIDE, UN_OUTSIDE };

/* A uid map and a gid map, indexed by enum un_kind. */
struct un_idmap {
    struct un_map of[2];
};

/* Parses an extent in the form "inside:outside:count". */
int un_extent_parse(const char *text, struct un_extent *extent, struct un_error *err);
int un_map_add(struct un_map *map, struct un_extent extent, struct un_error *err);
/* Checks a map for all violations that the kernel would report only as EINVAL, without the violated
 * rule (map/idmap.c). Fails with an error that names the violated rule. */
int un_map_check(const struct un_map *map, uint32_t max_extents, size_t page_size,
                 struct un_error *err);
/* Writes a map to `text` in the format of /proc/PID/uid_map, terminated by NUL. Returns the length
 * of the text. Async-signal-safe. */
size_t un_map_format(const struct un_map *map, char text[UN_MAP_TEXT_MAX]);
/* Parses a map in the format of /proc/PID/uid_map. */
int un_map_parse(const char *text, struct un_map *map, struct un_error *err);
/* Reads a map from a file such as /proc/self/uid_map. The path `name` is relative to the directory
 * `dir`. */
int un_map_read(int dir, const char *name, struct un_map *map, struct un_error *err);
/* Returns the extent that contains `id` on the given side (enum un_side) of the map, or NULL if no
 * extent does. */
const struct un_extent *un_map_find(const struct un_map *map, int side, uint32_t id);
/* Returns the length, at most `count`, of the longest run of ids from `id` on that is uniform on
 * the given side of the map. In a uniform run, either all ids belong to one extent, and *mapped
 * becomes true, or no id is mapped, and *mapped becomes false. */
uint32_t un_map_run(const struct un_map *map, int side, uint32_t id, uint32_t count, bool *mapped);
/* Returns whether two maps map the same ids to the same ids, even if their extents are ordered or
 * split differently. */
bool un_map_equal(const struct un_map *a, const struct un_map *b);

/* ---- subordinate ranges (facts/subid.c) ------------------------------------------------------ */

/* A range of ids: the `count` ids from `start` on. */
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

/* Warnings about malformed lines and about ranges that are granted to several users. Warnings do
 * not stop the setup. */
struct un_notices {
    uint32_t len;  /* number of warnings in `text` */
    uint32_t more; /* number of warnings dropped for lack of room; the last warning in `text`
                      reports this number */
    char text[UN_NOTICES][UN_NOTICE_MAX];
};

/* Reads the subordinate ranges of a user from a file like /etc/subuid (subuid(5)). A line belongs
 * to the user if its name is exactly the user's name, or exactly the uid in decimal. A missing file
 * counts as empty. */
int un_subid_read(const char *path, const char *user, uint32_t uid, struct un_ranges *ranges,
                  struct un_notices *notices, struct un_error *err);

/* ---- facts (facts/) -------------------------------------------------------------------------- */

#define UN_USER_MAX 256
#define UN_PATH_MAX 4096

/* State of newuidmap or newgidmap, as far as the state can be determined without running the
 * program. */
enum un_helper_state {
    UN_HELPER_MISSING, /* no executable with the name of the helper is on PATH */
    UN_HELPER_READY, /* the helper can gain privileges, or is a script, which may execute a program
                        that can */
    UN_HELPER_NOT_SETUID, /* the helper is neither setuid root nor has file capabilities */
    UN_HELPER_NOSUID, /* the helper is on a nosuid mount, where setuid bits and file capabilities
                         have no effect */
    UN_HELPER_NOT_EXECUTABLE,
    UN_HELPER_CAPS_ELSEWHERE /* the helper's file capabilities are valid only in another user
                                namespace */
};

struct un_id_facts {
    uint32_t own;         /* effective uid or gid of the caller */
    struct un_map parent; /* map of the caller's user namespace, with all ids that exist there */
    struct un_ranges ranges;
    int helper_state;         /* state of the helper (enum un_helper_state) */
    char helper[UN_PATH_MAX]; /* path of the helper */
};

#define UN_GRANT_COUNT 65536 /* number of subordinate ids that useradd(8) grants to a user */

/* Paths of the files that list the owners of ids, indexed by enum un_kind. */
struct un_grant_files {
    const char *subid[2]; /* paths of /etc/subuid and /etc/subgid, or of files with their format */
    const char *users[2]; /* paths of /etc/passwd and /etc/group, or of files with their format */
};

/* Finds a range of ids that is free both as uids and as gids, and exists in the caller's user
 * namespace, whose maps are `parents`. Like useradd(8), chooses UN_GRANT_COUNT ids above all ids
 * that are granted to any user, or fewer ids if no ids that high exist. Returns false if no range
 * is free or the granted ranges can't be read. */
bool un_free_ids(const struct un_grant_files *files, const struct un_map *const parents[2],
                 struct un_range *found);

/* All facts that a plan depends on. */
struct un_facts {
    struct un_id_facts id[2]; /* facts about uids and gids, indexed by enum un_kind */
    uint64_t caps;            /* effective capabilities of the caller, bit N for capability N */
    size_t page_size;         /* size of a page of memory, in bytes */
    /* un_facts_read_parents() fills in the following fields, if the plan needs them. */
    bool has_parents; /* whether un_facts_read_parents() has filled in the kernel version and
                         id[].parent */
    uint32_t kernel_major;
    uint32_t kernel_minor;
    /* un_facts_read_ranges() fills in the following fields, if the plan needs them. */
    bool has_ranges; /* whether un_facts_read_ranges() has succeeded */
    bool no_new_privs;
    bool in_bounding_set;   /* whether CAP_SETUID and CAP_SETGID are in the bounding set, so that
                               helpers can gain them */
    char user[UN_USER_MAX]; /* user name of the caller; "" if the uid has no name */
    int64_t user_gid; /* gid in the passwd entry of the caller; -1 if the caller has no entry */
    bool any_group;   /* whether the helpers accept a caller whose gid differs from user_gid */
    struct un_notices notices;
};

/* Paths of the files that un_facts_read_ranges() reads. NULL means the default path. */
struct un_sources {
    const char *subid[2]; /* paths of /etc/subuid and /etc/subgid, indexed by enum un_kind */
    const char *passwd;   /* path of /etc/passwd */
    const char *nsswitch; /* path of /etc/nsswitch.conf */
    const char *login;    /* path of /etc/login.defs */
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
/* Returns the securebits of the calling thread (capabilities(7)), or -1 with errno set. */
int un_securebits(void);
/* Returns the number of capabilities that this kernel has (capabilities(7)), or -1 if a seccomp
 * filter denies the query. */
int un_capability_count(void);
/* Returns the dumpable attribute of this process (PR_GET_DUMPABLE(2const)), or -1 with errno set.
 * The value 1 allows other processes of the same user to ptrace this process. */
int un_dumpable(void);
/* Returns the version of Landlock's ABI (landlock_create_ruleset(2)), or 0 if the kernel has no
 * Landlock or a seccomp filter denies the query. Whether Landlock confines this process can't be
 * queried. */
int un_landlock_version(void);

/* ---- planning (map/plan.c, facts/caller_plan.c) ---------------------------------------------- */

enum un_setgroups { UN_SETGROUPS_AUTO, UN_SETGROUPS_ALLOW, UN_SETGROUPS_DENY };

/* The process that writes a uid map or gid map. */
enum un_writer {
    UN_WRITER_NONE,   /* no process, because the map stays empty */
    UN_WRITER_SELF,   /* the process in the new user namespace itself, which may map only its own
                         effective id */
    UN_WRITER_PARENT, /* a process outside the new user namespace with CAP_SETUID or CAP_SETGID,
                         which may write any map */
    UN_WRITER_HELPER  /* newuidmap or newgidmap, which map the subordinate ids that /etc/subuid or
                         /etc/subgid grants */
};

/* Ids to map in addition to the caller's own id and the extents of the request. */
enum un_fill {
    UN_FILL_NONE,
    UN_FILL_PACKED,   /* all subordinate ranges of the caller, mapped to free ids from 0 on */
    UN_FILL_IDENTITY, /* all subordinate ranges of the caller, each id mapped to itself */
    UN_FILL_ALL       /* all ids that exist in the caller's user namespace, each mapped to itself */
};

struct un_id_request {
    bool map_self;      /* whether to map the caller's own id */
    uint32_t self;      /* id inside the namespace to which the caller's own id is mapped */
    struct un_map more; /* further extents to map */
    int fill;           /* further ids to map (enum un_fill) */
};

struct un_request {
    struct un_id_request id[2]; /* requests for both maps, indexed by enum un_kind */
    int setgroups;              /* requested policy for setgroups(2) (enum un_setgroups) */
    bool allow_single_id; /* whether to map only the caller's own id if the full request fails */
};

#define UN_HELPER_TIMEOUT_MS 10000

struct un_plan {
    struct un_idmap map;
    int writer[2];               /* writer of each map (enum un_writer), indexed by enum un_kind */
    const char *reason[2];       /* why each writer was chosen, indexed by enum un_kind */
    char helper[2][UN_PATH_MAX]; /* path of each helper, for maps with UN_WRITER_HELPER */
    int helper_timeout_ms;       /* timeout in milliseconds for both helpers together */
    struct un_ranges clipped[2]; /* parts of the subordinate ranges that do not exist in the
                                    caller's user namespace */
    bool single_id; /* whether only the caller's own id is mapped, because the full request failed
                       (allow_single_id) */
    struct un_error wanted; /* error with which the full request failed, if single_id is set */
    int setgroups; /* policy to write to /proc/PID/setgroups; UN_SETGROUPS_AUTO writes nothing */
    int64_t become[2]; /* ids inside the namespace to switch to, indexed by enum un_kind; -1 keeps
                          the id */
    bool drop_groups;  /* whether to drop the supplementary groups, because the gid outside changes
                          and setgroups(2) is allowed */
    bool is_root;      /* whether the caller is uid 0 in its current user namespace */
};

/* Returns whether a plan for this request needs un_facts_read_parents(). */
bool un_plan_needs_parents(const struct un_request *request, const struct un_facts *facts);
/* Returns whether a plan for this request needs un_facts_read_ranges(). */
bool un_plan_needs_ranges(const struct un_request *request, const struct un_facts *facts);
/* Chooses the maps and their writers. This is a pure function: it reads no files and starts no
 * processes, so the same request and facts always give the same plan. */
int un_plan_make(const struct un_request *request, const struct un_facts *facts,
                 struct un_plan *plan, struct un_error *err);
const char *un_writer_name(int writer);
/* Returns whether the process in the new namespace writes both of its maps itself.
 * Async-signal-safe. */
bool un_plan_writes_itself(const struct un_plan *plan);

/* Plans how to join the user namespace of a descendant of the caller. The descendant's /proc
 * directory is open as `dir`. Fills in the maps of the namespace, the ids to switch to, and whether
 * to drop the supplementary groups. */
int un_plan_to_join(int dir, struct un_plan *plan, struct un_error *err);
/* Makes a plan for the calling process. Reads the facts that the request needs, and chooses the
 * maps and their writers. */
int un_plan_for_caller(const struct un_request *request, const struct un_sources *sources,
                       struct un_facts *facts, struct un_plan *plan, struct un_error *err);

/* ---- writing the maps (sys/map_files.c, ns/helper.c) ----------------------------------------- */

/* Writes setgroups, uid_map and gid_map, in that order, of the process whose /proc directory is
 * open as `dir`. Skips maps that a helper writes. Async-signal-safe. */
int un_write_maps(int dir, const struct un_plan *plan, struct un_error *err);
/* Runs newuidmap and newgidmap in parallel for the process whose /proc directory is open as `dir`.
 * That process must be an unreaped child of the caller, so that its pid can't be reused. */
int un_run_helpers(int dir, const struct un_plan *plan, struct un_error *err);
/* Reads back the maps of the process whose /proc directory is open as `dir`. Fails unless they
 * equal the planned maps. */
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

/* Returns the CLONE_NEW... flag of a type of namespace (enum un_ns). */
uint64_t un_ns_flag(int ns);
/*
 * In the following functions, `child` is the path of the child program, usernsctl-child. Root in a
 * user namespace may ptrace any process that joins the namespace. Hence a process executes the
 * child program before it joins, so that its memory and descriptors contain nothing of the caller.
 * A static program that calls un_child_main() can pass its own path, "/proc/self/exe".
 */

/* Creates namespaces, with the user namespace mapped as planned, and opens descriptors of them. No
 * process remains in the namespaces. `flags` are the CLONE_NEW... flags of the other namespaces;
 * CLONE_NEWPID fails with EINVAL, because a PID namespace can't outlive its PID 1. */
int un_namespace_create(const struct un_plan *plan, uint64_t flags, const char *child,
                        struct un_namespace *ns, struct un_error *err);
void un_namespace_close(struct un_namespace *ns);
/* Moves this process into the namespaces, the user namespace first. Before joining, makes this
 * process non-dumpable (PR_SET_DUMPABLE(2const)), so that processes inside can't ptrace it. Before
 * the call, close all descriptors that processes inside must never obtain. Async-signal-safe. */
int un_namespace_join(const struct un_namespace *ns, struct un_error *err);
/* Moves this process, which must be single-threaded, into new namespaces. If `plan` is NULL, no
 * user namespace is created. The process becomes non-dumpable, and is dumpable again only while it
 * opens uid_map, gid_map and setgroups. If `is_private` is set, or if another process has to write
 * the maps, the child program creates the user namespace, and this process stays non-dumpable. */
int un_enter(const struct un_plan *plan, uint64_t flags, const char *child, bool is_private,
             struct un_error *err);

/* ---- setup inside the namespaces (sys/setup.c, sys/mount.c) ---------------------------------- */

/* Setup inside the namespaces, performed in the order of the fields. Unset fields are NULL, 0,
 * false or -1. */
struct un_setup {
    bool own_stdio;            /* whether to call un_own_stdio() */
    unsigned long propagation; /* MS_PRIVATE, MS_SLAVE or MS_SHARED, to be set on all mounts */
    const char *root;          /* new root directory (chroot(2)) */
    const char *mount_proc;    /* path below `root` on which to mount a new proc file system */
    const char *cwd;           /* new working directory (chdir(2)) */
    uint64_t drop_bounding; /* capabilities to drop from the bounding set, bit N for capability N */
    bool no_new_privs; /* whether to set the no_new_privs attribute (PR_SET_NO_NEW_PRIVS(2const)) */
    bool no_membarrier;  /* whether to call un_add_membarrier_filter() */
    const gid_t *groups; /* supplementary groups to set (setgroups(2)) */
    int32_t group_count; /* number of gids in `groups`; -1 keeps the current groups */
    int64_t gid;         /* gid to switch to (setresgid(2)); -1 keeps the gid */
    int64_t uid;         /* uid to switch to (setresuid(2)); -1 keeps the uid */
    bool keep_caps;      /* whether to keep the capabilities across exec, as ambient capabilities */
    int pdeathsig; /* signal to receive when the parent dies (PR_SET_PDEATHSIG(2const)); 0 for none
                    */
    int parent_pidfd; /* pidfd of the parent, to detect that the parent died before PR_SET_PDEATHSIG
                       */
};

void un_setup_init(struct un_setup *setup);
/* Performs the setup in the order of the fields of `setup`. A process that was non-dumpable before
 * the call remains non-dumpable. Async-signal-safe. */
int un_setup_apply(const struct un_setup *setup, struct un_error *err);
/* Calls mount(2), and fills in `err` if the call fails. Async-signal-safe. */
int un_mount(const char *source, const char *target, const char *type, unsigned long flags,
             const char *data, struct un_error *err);
/* Bind-mounts the file or directory `source`, with all mounts below it, on `target`, which must be
 * of the same type. Both are descriptors (O_PATH suffices) of this mount namespace. The mount has
 * `attributes` (MOUNT_ATTR_... of mount_setattr(2)) already when it becomes visible. `name` is for
 * the error message. Fails with the cause mount-by-descriptor-missing before Linux 5.12. */
int un_bind(int source, int target, uint64_t attributes, const char *name, struct un_error *err);
/* Sets the attributes `set` and clears the attributes `clear` on the mount whose root is open as
 * `top`, and on all mounts below it. Fails before Linux 5.12 with the same cause as un_bind(). */
int un_mount_restrict(int top, uint64_t set, uint64_t clear, const char *name,
                      struct un_error *err);

/* ---- running a command (sys/exec.c, sys/fds.c, sys/supervise.c, ns/spawn.c) ------------------ */

struct un_command {
    const char *file; /* path of the command, or a name to search for in `path` */
    const char *path; /* search path, directories separated by colons; NULL means /bin:/usr/bin */
    const char *const *argv; /* arguments of the command, terminated by NULL */
    const char *const *envp; /* environment of the command, terminated by NULL */
};

/* Executes a command. Returns only on failure, with -1. Async-signal-safe. */
int un_exec(const struct un_command *command, struct un_error *err);
/* Closes all descriptors from 3 on except those in `keep`, which must be sorted and without
 * duplicates. Clears close-on-exec on the descriptors in `keep`. Async-signal-safe. */
int un_close_fds(const int *keep, size_t keep_count, struct un_error *err);

#define UN_START_TIMEOUT_MS 30000

struct un_spawn {
    const char *child;          /* path of usernsctl-child; NULL for a bare command (un_spawn()) */
    const struct un_plan *plan; /* plan for a new user namespace; NULL if none is created */
    const struct un_namespace *join; /* namespaces to join first; NULL if none is joined */
    uint64_t flags;                  /* CLONE_NEW... flags of further new namespaces */
    bool has_init; /* with CLONE_NEWPID: whether PID 1 forks the command, forwards signals to it,
                      reaps orphans, and exits with the command's status, or 128+N if signal N
                      killed the command */
    int cgroup; /* descriptor of the cgroup v2 directory in which to start the child; -1 means the
                   caller's cgroup */
    struct un_setup setup;
    struct un_command command;
    int stdio[3];      /* descriptors for standard input, output and error; -1 keeps the caller's */
    bool close_fds;    /* whether to close all descriptors from 3 on except those in `keep` */
    const int *keep;   /* descriptors that the command inherits, sorted, without duplicates */
    size_t keep_count; /* number of descriptors in `keep` */
    bool restore_signals;    /* whether to reset SIGPIPE and SIGXFSZ, which Python ignores, to the
                                default action */
    int start_timeout_ms;    /* timeout in milliseconds until the child has executed the command; -1
                                means none */
    const uint64_t *signals; /* signal mask of the command; NULL means the caller's mask */
    bool new_session;        /* whether to start a new session (setsid(2)) */
    int process_group; /* process group for the command (setpgid(2)); -1 keeps the caller's group */
    int umask;         /* umask of the command (umask(2)); -1 keeps the caller's umask */
};

void un_spawn_init(struct un_spawn *spawn);
/*
 * Starts a command in a child. On success, execve(2) of the command has succeeded, *pid is the pid
 * of the command, and *pidfd refers to the command. On failure no process remains. Safe to call
 * from any thread; a concurrent pthread_cancel(3) takes effect after the call. The cost does not
 * depend on the size of the caller's memory. Root in a joined namespace can stop the child from
 * executing the command, so the child is killed at the start timeout.
 *
 * The child executes a bare command, which changes no namespace, root directory, ids or
 * capabilities, directly. Any other command is executed by the child program, after it has entered
 * the namespaces.
 */
int un_spawn(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);
/* Returns the wait status (waitpid(2)) of a process that was already reaped, for example by the
 * kernel because SIGCHLD is ignored. Returns -1 if the kernel does not support this query (before
 * Linux 6.15). */
int un_lost_status(int pidfd);
/* The resource usage of a process and of all its descendants that were reaped (getrusage(2)). */
struct un_usage {
    int64_t user_us;   /* processor time in user mode, in microseconds */
    int64_t system_us; /* processor time in the kernel, in microseconds */
    int64_t max_kib;   /* the highest peak of resident memory among these processes, in KiB */
};
/* Reaps a child if it has exited, without waiting (WNOHANG). Returns 0 and stores the child's
 * resource usage in `usage`. Returns -1 if the child still runs, or if waitid(2) fails, for example
 * because the child was already reaped; errno is set only if waitid(2) fails. */
int un_reap_exited(int pidfd, struct un_usage *usage);
/*
 * Acts as PID 1 of a PID namespace for the command `child`: forwards signals to the command, reaps
 * all children, and exits with the status of the command, or 128+N if signal N killed it, because
 * PID 1 can't kill itself by a signal. The kernel then kills all other processes of the namespace
 * (pid_namespaces(7)). Does not return. All signals must have been blocked since before `child` was
 * started, and SIGCHLD must not be ignored. Closes all descriptors except `report`, and writes each
 * wait status of the command (an int as of waitpid(2)) to the pipe `report`, unless `report` is -1.
 */
void un_be_init(pid_t child, int report);
/* Kills this process by `sig`, the signal that killed a child, without a core dump. Returns only if
 * that fails, as in PID 1 of a PID namespace, which can't kill itself by a signal. */
void un_reraise(int sig);
/* Waits for a child on behalf of this process's parent, as usernsctl-exec --fork does. Forwards
 * signals to the child, and returns the child's wait status (waitpid(2)). Signals that arrived
 * before the call are forwarded too if they were blocked when the child was forked. Also reaps all
 * other children, so this process must not wait for other children itself. */
int un_supervise_child(pid_t child);

/* ---- users and groups of a sandbox (base/accounts.c) ----------------------------------------- */

/* Maximum size in bytes of /etc/passwd and /etc/group in a sandbox, which is room for more than
 * 100,000 users. */
#define UN_ACCOUNT_FILE_MAX 8388608
/* Maximum number of groups of a user. */
#define UN_ACCOUNT_GROUPS_MAX 4096

/* The content of /etc/passwd or /etc/group of a sandbox. */
struct un_account_file {
    const char *bytes; /* content of the file; NULL if the file does not exist */
    size_t length;
};

/* A user of a sandbox. */
struct un_account {
    uint32_t id[2]; /* uid and gid of the user, indexed by UN_UID and UN_GID */
    uint32_t groups[UN_ACCOUNT_GROUPS_MAX]; /* supplementary groups, in ascending order */
    size_t group_count;
    char home[UN_PATH_MAX]; /* home directory in /etc/passwd; "" if the user has no valid one */
};

/* Finds a user and a group, each given as a name or as an id. If `group` is NULL, a user given by
 * name has the gid in /etc/passwd, and all groups that list the user as supplementary groups; a
 * user given by uid has a gid equal to the uid. If several lines have the same name, the first
 * counts, as for getpwnam(3). Malformed lines are skipped. */
int un_account_find(const char *user, const char *group, const struct un_account_file *passwd,
                    const struct un_account_file *groups, struct un_account *account,
                    struct un_error *err);

/* ---- the file system of a sandbox (launch/view.c, launch/command.c) -------------------------- */

/* The directory tree that a sandbox will see: a root filesystem, and the mounts of runsc on it. */
struct un_view;

/* Creates a view of the root filesystem whose O_PATH descriptor is `top`. The view takes
 * ownership of `top`. Returns 0, or -1 with errno set. */
int un_view_new(int top, struct un_view **view);
/* Adds a mount that runsc will make at `inside`, a path without symbolic links. If the view
 * already has a mount at this path, the new mount is ignored. The view takes ownership of `fd`, an
 * O_PATH descriptor. `source` is the path of the mounted file on the host, or "" if no file of the
 * host is mounted. Returns 0, or -1 with errno set. */
int un_view_add(struct un_view *view, const char *inside, const char *source, int fd);
/* Sets the ids that the sandbox maps. Directories of these users and groups count as searchable in
 * the sandbox even if this process may not search them. Returns 0, or -1 with errno set. */
int un_view_set_owners(struct un_view *view, const struct un_idmap *ids);
/* Frees the view *view, and sets *view to NULL. Does nothing if *view is NULL. */
void un_view_free(struct un_view **view);

/* The result of following a path in a sandbox. */
struct un_reached {
    int errnum;        /* errno of the failure to follow the path; 0 on success */
    bool is_certain;   /* whether the lookup of the path in the sandbox will certainly fail with
                          `errnum`, too */
    bool is_of_gvisor; /* whether the path leads into a file system of gVisor, whose contents only
                          gVisor knows */
    bool is_implicit;  /* whether the last file is a directory that gVisor creates as a parent of a
                          mount point */
    int fd; /* O_PATH descriptor of the last file, which the caller must close; -1 if the file is
               not accessible */
    char inside[UN_PATH_MAX];  /* path inside the sandbox of the last file that exists, without
                                  symbolic links */
    char missing[UN_PATH_MAX]; /* remaining components of the path, which do not exist; "" if the
                                  entire path exists */
};

/* Follows a path and its symbolic links as the kernel of the sandbox will. A relative path begins
 * at `start`, a directory inside. Returns the descriptor reached->fd, which is -1 on failure. */
int un_view_follow(const struct un_view *view, const char *start, const char *path,
                   struct un_reached *reached);
/* Returns whether the sandbox will have a directory at the absolute path `inside`. */
bool un_view_has_directory(const struct un_view *view, const char *inside);

/* The reason why a sandbox can't start a command. */
struct un_command_fault {
    int step;               /* UN_STEP_LOOKUP if the command is not found, otherwise UN_STEP_EXEC */
    int errnum;             /* errno with which execve(2) will fail in the sandbox */
    char path[UN_PATH_MAX]; /* path inside the sandbox of the file at fault, or the command as the
                               caller gave it */
    char reason[4 * UN_PATH_MAX];  /* explanation in one sentence; "" for UN_STEP_LOOKUP */
    const char *remedy;            /* instructions for the user; "" if they depend on the caller */
    char interpreter[UN_PATH_MAX]; /* path inside the sandbox of a script's missing interpreter; ""
                                      for any other fault */
};

/* Checks whether a command in a sandbox can't be found in the search path `search`, or can't be
 * executed. `cwd` is the working directory inside. Files that only gVisor can read, or that this
 * process may not read, are assumed to be valid. Returns true and fills in `fault` if the command
 * would fail. */
bool un_view_check_command(const struct un_view *view, const char *command, const char *search,
                           const char *cwd, struct un_command_fault *fault);

/* ---- launches (launch/) ---------------------------------------------------------------------- */

/*
 * A launch is a description of all steps from a request to the exec of runsc. A launch is a
 * sequence of arguments, each terminated by NUL, and the arguments form the records that
 * launch/verbs.h lists. The Python package or usernsctl-exec composes a launch, and these functions
 * perform it: they open the sources, then (after the caller has entered the namespaces) build the
 * root filesystem and the files, then execute the program that waits for runsc.
 */
#define UN_LAUNCH_MAX 33554432 /* maximum size of a launch in bytes */
#define UN_LAUNCH_WORDS_MAX 262144

/* Limit of descriptors (RLIMIT_NOFILE) for each process of a sandbox on the host. gVisor's kernel
 * holds two or three per open host file, as many per file in its dentry cache (runsc's flag
 * --dcache), and one per socket of the host network. */
#define UN_SANDBOX_FILES_MAX 16384

/* A launch that is being performed. */
struct un_launch;

/* Parameters of a launch that are known only when the launch is performed. */
struct un_launch_params {
    const char *const *args;  /* the command and its arguments, terminated by NULL */
    const char *const *env;   /* the environment of the command, terminated by NULL */
    const char *cwd;          /* the working directory of the command, a path inside */
    const char *hostname;     /* host name of the sandbox; NULL means none */
    const char *const *homes; /* paths of the caller's home directories, terminated by NULL */
    uint32_t id[2];           /* the uid and the gid of the command, indexed by UN_UID and UN_GID */
    const uint32_t *groups; /* supplementary groups of the command; empty if the user namespace maps
                               a single id */
    size_t group_count;
    bool terminal;       /* whether the command uses the terminal of this process */
    bool reraise_signal; /* whether the watcher kills itself by the signal N that killed the
                            command, instead of exiting with 128+N */
    bool log_json;       /* whether the watcher prints messages in JSON */
    const char *const *watch_options; /* further options of the watcher, terminated by NULL; NULL
                                         means no options */
    const int *watch_fds;             /* further descriptors that the watcher inherits */
    size_t watch_fd_count;
};

/* Returns whether standard input, output and error are the same terminal. gVisor uses only one of
 * the three as the command's terminal. */
bool un_stdio_is_terminal(void);
/* Parses a launch, and stores it in *launch. The launch refers to `bytes` until it is closed. */
int un_launch_parse(const void *bytes, size_t size, struct un_launch **launch,
                    struct un_error *err);
/* Fails if a seccomp filter forbids a system call that the start of a sandbox makes. Must be called
 * before any of these system calls, because a process that the filter kills can't report the
 * cause. */
int un_filter_check_launch(struct un_error *err);
/* Fails if a seccomp filter kills callers of a system call that `usernsctl doctor` itself makes. */
int un_filter_check_doctor(struct un_error *err);
/* Checks the assumptions of the launch about the host, opens the sources of the launch, and
 * prepares control groups if the launch needs them. Must be called before the namespaces are
 * entered. `fds` has one descriptor per source, which the caller continues to own, or -1 for a
 * source that this function opens; NULL means -1 for all sources. */
int un_launch_open(struct un_launch *launch, const int *fds, struct un_error *err);
/* Directories that must never be visible in a sandbox. */
struct un_hidden {
    const char *state;     /* directory of the records of sandboxes */
    const char *templates; /* directory of templates; NULL if the caller has no templates */
};

/* Fails if a program in the sandbox could see a hidden directory, or could write to `file`, from
 * which the launch was read, or to the parent directory of `file`. The launch must be open. */
int un_launch_guard(struct un_launch *launch, int file, const struct un_hidden *hidden,
                    struct un_error *err);
/* Builds the root filesystem and the files of the sandbox in the mount namespace of this process,
 * whose mounts must be private. After a failure no mount remains. */
int un_launch_build(struct un_launch *launch, const struct un_launch_params *params,
                    struct un_error *err);
/* Writes config.json, drops privileges, and executes the program that waits for runsc. Returns only
 * on failure, with -1; privileges may already have been dropped. */
int un_launch_exec(struct un_launch *launch, const struct un_launch_params *params,
                   struct un_error *err);
/* Closes all descriptors of a launch, and frees the launch. The mounts of the launch remain. Does
 * nothing if `launch` is NULL. */
void un_launch_close(struct un_launch *launch);

/* Returns the view of the file system that the sandbox will have. The launch owns the view. */
const struct un_view *un_launch_view(const struct un_launch *launch);
/* The first function returns the remedy for the last failure, the second the path of the file that
 * failed. Both return NULL if the launch has recorded none; the remedy of the error's cause then
 * applies. */
const char *un_launch_remedy(const struct un_launch *launch);
const char *un_launch_filename(const struct un_launch *launch);

/* Fails if a bind mount of one of the sources would expose `directory`, which need not exist yet.
 * A source exposes the directory if the source contains the directory or a symbolic link on the
 * directory's path, or lies in the directory. `fds` are open descriptors of the sources, and
 * `names` the names of the sources for the error message. Writes the index of the offending source
 * to `which`. */
int un_refuse_to_show(const int *fds, const char *const *names, size_t count, const char *directory,
                      size_t *which, struct un_error *err);
/* Finds out whether a bind mount of an open file or directory would expose a file system that is an
 * interface of the kernel, such as /proc, /sys or /dev: whether the file lies in such a file
 * system, by whatever path it was opened, or such a file system is mounted below the directory.
 * Writes the name of the interface to `part`, or NULL if none would be exposed. Returns 0, or -1
 * with errno set. */
int un_machine_part(int fd, const char **part);
/* Returns whether a symbolic link that the user `uid` owns may be followed. `path` is the path of
 * the link, with all other symbolic links resolved. */
bool un_owner_is_trusted(uid_t uid, const char *path);
/* Returns whether users other than the caller and root may write to an open directory, according to
 * its mode or its access control list. Write permission of the owning group is ignored if the group
 * is root's, or if its gid equals the caller's uid and the group has no members. */
bool un_others_may_write(int directory);
/* Writes a checksum of the content of an open file to `text`. O_PATH suffices for the descriptor.
 * The checksum covers a program of up to 256 KiB completely, and the head and samples of a larger
 * one (launch/content.c). Returns 0, or -1 with errno set. */
#define UN_CONTENT_SUM_ROOM 17
int un_content_sum(int fd, char text[UN_CONTENT_SUM_ROOM]);
/* Sets O_APPEND on a descriptor whose offset is at the end of its file, because gVisor would
 * otherwise overwrite the file's contents. Returns 0, or -1 with errno set if the descriptor is not
 * open. */
int un_append_at_end(int fd);

#endif
