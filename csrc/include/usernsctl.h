/*
 * usernsctl: user namespaces, made and mapped without privilege.
 *
 * The whole interface of the core, and internal to the wheel: the Python package and the programs
 * that come with it are its only callers, and it changes with them. The Python binding reads its
 * declarations from this very file, so it keeps to what cffi understands: numbers, structs, enums
 * and functions.
 *
 * Conventions
 *   - A function that can fail returns 0, or -1 and fills in the struct un_error that is its last
 *     argument. Nothing here prints, exits, or keeps state of its own between calls.
 *   - "Async-signal-safe" means what signal-safety(7) means: the function neither allocates nor
 *     locks, so it may run in a child that still shares its parent's memory.
 *   - Descriptors that a function opens are close-on-exec.
 *   - The rules quoted are those of user_namespaces(7); where one came or went, its kernel is
 * named.
 */
#ifndef USERNSCTL_H
#define USERNSCTL_H

/* Nothing is tested on other processors, and gVisor runs on no others. */
#if !defined(__LP64__) || !(defined(__x86_64__) || defined(__AARCH64EL__))
#error "usernsctl supports x86-64 and AArch64 only"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- errors (base/error.c, explain/) --------------------------------------------------------- */

#define UN_DETAIL_MAX 512

/* The point of the set-up at which something failed. */
enum un_step {
    UN_STEP_NONE,
    UN_STEP_ARGUMENT,    /* what we were asked for makes no sense */
    UN_STEP_FACTS,       /* finding out who and where we are */
    UN_STEP_SUBID,       /* reading the subordinate ranges */
    UN_STEP_PLAN,        /* deciding what to map, and who writes it */
    UN_STEP_CLONE,       /* starting a process */
    UN_STEP_CGROUP,      /* starting it in another control group */
    UN_STEP_UNSHARE,     /* making a namespace */
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
    UN_STEP_SESSION, /* setsid(2), setpgid(2) */
    UN_STEP_PDEATHSIG,
    UN_STEP_STDIO,   /* standard input, output and error */
    UN_STEP_FDS,     /* passing and closing descriptors */
    UN_STEP_LOOKUP,  /* the command does not exist */
    UN_STEP_EXEC,    /* the command exists, but can't be executed */
    UN_STEP_WAIT,    /* waiting for a child */
    UN_STEP_LAUNCH,  /* reading a launch */
    UN_STEP_SANDBOX, /* the files of a sandbox */
    UN_STEP_ROOTFS,  /* its root filesystem */
    UN_STEP_HOME,    /* hiding a home directory in it */
    UN_STEP_BIND,    /* showing a file in it */
    UN_STEP_CONFIG,  /* its config.json */
    UN_STEP_RUNSC,   /* executing what runs runsc */
    UN_STEP_COUNT
};

struct un_error {
    int step;                   /* enum un_step */
    int errnum;                 /* errno of the call that failed, 0 where none did */
    const char *cause;          /* the id of a struct un_cause, or NULL if the cause is not known */
    char detail[UN_DETAIL_MAX]; /* what it was about: a path, an extent, a helper's own words */
    char remedy[UN_DETAIL_MAX]; /* what mends it here; "": what mends its cause anywhere */
};

/* Why something failed, for people. */
struct un_cause {
    const char *id;     /* stable: an id never changes once released */
    const char *why;    /* a sentence or two */
    const char *remedy; /* what to do; a command where there is one */
};

/* Returns the version of the package. */
const char *un_version(void);
/* Returns a step's name, such as "uid_map". */
const char *un_step_name(int step);
/* Fills in the cause with this id, and returns whether there is one. */
bool un_cause_find(const char *id, struct un_cause *cause);
/* Says in one line what failed: the detail, and what the kernel said. Returns text. */
const char *un_error_reason(const struct un_error *err, char *text, size_t size);
/* Names the cause of a failure that has none yet, by cheap facts from `proc` ("/proc"), if one of
 * them speaks for it. To be called where it failed, by the process that it failed in. */
void un_diagnose(struct un_error *err, const char *proc);
/* Returns the exit status for a failure before the command ran: 127 not found, 126 not executable,
 * 125. */
int un_exit_status(const struct un_error *err);

/* ---- runsc's failures (explain/runsc.c) ------------------------------------------------------ */

/* The exit statuses of `runsc run` where runsc itself failed, and where it crashed, as each program
 * in Go does. A command may end with them, too. */
#define UN_RUNSC_FAILED 128
#define UN_RUNSC_CRASHED 2

struct un_runsc_failure {
    char what[4096];       /* in one line: runsc's message, in quotation marks */
    bool has_cause;        /* whether the message can have only one cause */
    struct un_cause cause; /* set if has_cause */
    char remedy[4096];     /* may have several lines */
};

/* Explains a message of runsc by the messages of the catalogue. `limit` is the id of a limit's
 * cause, which counts if the message can have several causes, or "". What the message quotes of the
 * untrusted config.json does not count; if `config` is NULL, nothing of the message counts. `proc`
 * is "/proc". */
int un_runsc_explain(const char *told, const char *limit, const char *config, size_t size,
                     const char *proc, struct un_runsc_failure *failure, struct un_error *err);
/* Explains an end of runsc with `status` and without a message; 128+N: perhaps by signal N. */
void un_runsc_explain_silence(int status, const char *limit, struct un_runsc_failure *failure);

/* ---- what runsc says (explain/messages.c, explain/runsc_files.c) ----------------------------- */

/* Texts, each ended by NUL, one after the other. */
struct un_messages {
    char *bytes;
    size_t size;  /* of all of them */
    size_t count; /* how many there are */
};

/* Reads the member "msg" of each JSON object in a text up to the first malformed object. Objects
 * without it, and empty messages, are skipped. NUL and invalid UTF-8 become U+FFFD. Returns -1 on
 * ENOMEM. */
int un_messages_read(const char *text, size_t size, struct un_messages *messages);
void un_messages_free(struct un_messages *messages);

/*
 * The signs of a failure that only runsc itself writes: the fatal errors of its processes (--log,
 * as JSON), the first line of Go's crash report (--panic-log), and the exit status as the last line
 * of runsc's own debug log. Other lines of the debug logs quote the untrusted bundle and command.
 */
struct un_runsc_words {
    bool has_ended;              /* runsc exited normally, after the sandbox */
    const char *told;            /* the reason of the failure, or NULL */
    struct un_messages messages; /* all fatal errors, in order */
    char *crash;                 /* the line of the crash report, or NULL */
};

/* Reads the beginning of the files, and the end of the debug log; any file may be absent. `debug`
 * may contain %COMMAND%. Returns -1 on ENOMEM. */
int un_runsc_words_read(const char *errors, const char *crash, const char *debug,
                        struct un_runsc_words *words);
void un_runsc_words_free(struct un_runsc_words *words);

/* ---- messages of other programs (explain/search.c) ------------------------------------------- */

#define UN_CAUSES_MAX 256      /* more causes than the catalogue has */
#define UN_OCCURRENCES_MAX 512 /* more than it has messages, hints and causes */

/* The place where a text has a message of the catalogue, or the id of a cause. */
struct un_occurrence {
    size_t at;          /* where that begins */
    bool is_hint;       /* names no cause, but puts first those that another message can have */
    size_t count;       /* how many causes there are */
    const char *causes; /* their ids, likeliest first, each ended by NUL */
};

/* A search for all messages of the catalogue in a text that comes in pieces; zeroed at first. */
struct un_search {
    size_t count;
    struct un_occurrence occurrence[UN_OCCURRENCES_MAX];
};

/* Adds the messages and hints that a piece of the text has and the pieces before it had not, and
 * the ids of causes in it, as our own errors have them. The piece may be any bytes; the time grows
 * with its size, and no memory is allocated. */
void un_search_add(struct un_search *search, const char *piece, size_t size);
/* Lists the causes that all of the text can have, likeliest first, and returns how many. Causes
 * that a hint speaks for come first, then those of a message that has few. */
size_t un_search_causes(const struct un_search *search, const char *ids[UN_CAUSES_MAX]);

/* ---- extents and maps (map/idmap.c, sys/map_files.c) ----------------------------------------- */

#define UN_MAP_MAX 340        /* extents in a map; 5 before kernel 4.15 */
#define UN_MAP_TEXT_MAX 11221 /* 340 lines of three ten-digit numbers, and a NUL */

/* `count` ids from `inside` on stand for as many from `outside` on. */
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

/* The sides of a map. */
enum un_side { UN_INSIDE, UN_OUTSIDE };

/* The maps of both kinds, indexed by enum un_kind. */
struct un_idmap {
    struct un_map of[2];
};

/* Reads "inside:outside:count". */
int un_extent_parse(const char *text, struct un_extent *extent, struct un_error *err);
int un_map_add(struct un_map *map, struct un_extent extent, struct un_error *err);
/* Checks what the kernel would answer with a bare EINVAL: see the comment in map/idmap.c. */
int un_map_check(const struct un_map *map, uint32_t max_extents, size_t page_size,
                 struct un_error *err);
/* Writes the kernel's text of a map, ends it with NUL, returns its length. Async-signal-safe. */
size_t un_map_format(const struct un_map *map, char text[UN_MAP_TEXT_MAX]);
/* Reads the kernel's text of a map. */
int un_map_parse(const char *text, struct un_map *map, struct un_error *err);
/* Reads a file such as /proc/self/uid_map, the name relative to the directory `dir`. */
int un_map_read(int dir, const char *name, struct un_map *map, struct un_error *err);
/* Returns whether an id inside is mapped. */
bool un_map_has(const struct un_map *map, uint32_t inside);
/* Returns how many of the ids from `id` on, `count` at most, are alike on that side of a map: all
 * in one extent (*mapped is set), or all in none. */
uint32_t un_map_run(const struct un_map *map, int side, uint32_t id, uint32_t count, bool *mapped);
/* Returns whether two maps map the same ids to the same: the order and the cut of extents don't
 * matter. */
bool un_map_equal(const struct un_map *a, const struct un_map *b);

/* ---- subordinate ranges (facts/subid.c) ------------------------------------------------------ */

/* `count` ids from `start` on. */
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

/* What is worth telling but stops nobody: malformed lines, ranges shared with somebody. */
struct un_notices {
    uint32_t len;  /* how many are here */
    uint32_t more; /* how many there was no room for: the last text says so */
    char text[UN_NOTICES][UN_NOTICE_MAX];
};

/* Reads the ranges of a user from a file like /etc/subuid (subuid(5)): those of lines that begin
 * with exactly its name, or with exactly its uid in decimal. No such file: no ranges. */
int un_subid_read(const char *path, const char *user, uint32_t uid, struct un_ranges *ranges,
                  struct un_notices *notices, struct un_error *err);

/* ---- facts (facts/) -------------------------------------------------------------------------- */

#define UN_USER_MAX 256
#define UN_PATH_MAX 4096

/* What is known of newuidmap or newgidmap without running it. */
enum un_helper_state {
    UN_HELPER_MISSING,    /* not on PATH */
    UN_HELPER_READY,      /* also a script, which may start one that is */
    UN_HELPER_NOT_SETUID, /* neither setuid root nor with file capabilities */
    UN_HELPER_NOSUID,     /* on a mount where neither counts */
    UN_HELPER_NOT_EXECUTABLE,
    UN_HELPER_CAPS_ELSEWHERE /* its file capabilities are for another user namespace */
};

struct un_id_facts {
    uint32_t own;         /* our effective id */
    struct un_map parent; /* the map of the namespace we are in: the ids that exist for us */
    struct un_ranges ranges;
    int helper_state;         /* enum un_helper_state */
    char helper[UN_PATH_MAX]; /* where it is */
};

#define UN_GRANT_COUNT 65536 /* what useradd(8) grants to a user */

/* The files that say who has which ids, each by enum un_kind. */
struct un_grant_files {
    const char *subid[2]; /* /etc/subuid and /etc/subgid */
    const char *users[2]; /* /etc/passwd and /etc/group */
};

/* Finds ids that nobody has, and that exist where the maps of the namespace around us are
 * `parents`: the same as uids and as gids. They are UN_GRANT_COUNT behind all that is granted to
 * anybody, as useradd(8) does it, or, where none exist so high, as many as there are. False: there
 * are none, or what is granted can't be read. */
bool un_free_ids(const struct un_grant_files *files, const struct un_map *const parents[2],
                 struct un_range *found);

/* What a plan depends on, and all it depends on. */
struct un_facts {
    struct un_id_facts id[2]; /* by enum un_kind */
    uint64_t caps;            /* our effective capabilities, bit N for capability N */
    size_t page_size;         /* bytes */
    /* The rest is read only if a plan needs it: where we are, ... */
    bool has_parents; /* whether that was read: this, and id[].parent */
    uint32_t kernel_major;
    uint32_t kernel_minor;
    /* ... and what the system grants us. */
    bool has_ranges; /* whether that was read */
    bool no_new_privs;
    bool in_bounding_set;   /* whether CAP_SETUID and CAP_SETGID are: helpers can gain them */
    char user[UN_USER_MAX]; /* our name, "" if there is none */
    int64_t user_gid;       /* the gid in our passwd entry, -1 without one */
    bool any_group;         /* if we have another: the helpers serve us nevertheless */
    struct un_notices notices;
};

/* Where the facts about ranges come from. NULL: the system's. */
struct un_sources {
    const char *subid[2]; /* /etc/subuid and /etc/subgid, by enum un_kind */
    const char *passwd;   /* /etc/passwd */
    const char *nsswitch; /* /etc/nsswitch.conf */
    const char *login;    /* /etc/login.defs */
    const char *path;     /* where helpers are looked for: directories separated by colons */
};

/* Reads the facts that every plan needs, of the calling process. */
int un_facts_read(struct un_facts *facts, struct un_error *err);
/* Reads which ids exist here, and which kernel this is. */
int un_facts_read_parents(struct un_facts *facts, struct un_error *err);
/* Reads what the system grants us. */
int un_facts_read_ranges(struct un_facts *facts, const struct un_sources *sources,
                         struct un_error *err);
/* Returns the number of threads of this process, or -1 where /proc does not tell. */
int un_thread_count(void);
/* Returns whether this process can get no memory that it could write and execute
 * (PR_GET_MDWE(2const)), 0 or 1; -1: the kernel does not tell. */
int un_denies_write_execute(void);
/* Returns the securebits of the calling thread (capabilities(7)), or -1. */
int un_securebits(void);
/* What prctl(2) says for PR_GET_DUMPABLE: 1 where others of the same user may look into this
 * process; or -1. */
int un_dumpable(void);
/* Returns the version of Landlock's interface (landlock_create_ruleset(2)); 0: there is none, or it
 * is refused. Nothing tells whether Landlock confines this process. */
int un_landlock_version(void);

/* ---- planning (map/plan.c, facts/caller_plan.c) ---------------------------------------------- */

enum un_setgroups { UN_SETGROUPS_AUTO, UN_SETGROUPS_ALLOW, UN_SETGROUPS_DENY };

/* Who writes a map. */
enum un_writer {
    UN_WRITER_NONE,   /* nobody: the map stays empty */
    UN_WRITER_SELF,   /* the process itself: one id, its own */
    UN_WRITER_PARENT, /* a process outside that holds CAP_SETUID or CAP_SETGID: any map */
    UN_WRITER_HELPER  /* newuidmap or newgidmap: what the user was granted */
};

/* What else is mapped, beside our own id and the extents named. */
enum un_fill {
    UN_FILL_NONE,
    UN_FILL_PACKED,   /* all our subordinate ranges, to the free ids from 0 on */
    UN_FILL_IDENTITY, /* all our subordinate ranges, each id to itself */
    UN_FILL_ALL       /* all ids that there are here, each to itself */
};

struct un_id_request {
    bool map_self;      /* our own id ... */
    uint32_t self;      /* ... is this one inside */
    struct un_map more; /* further extents */
    int fill;           /* enum un_fill */
};

struct un_request {
    struct un_id_request id[2]; /* by enum un_kind */
    int setgroups;              /* enum un_setgroups */
    bool allow_single_id;       /* rather than to fail, map our own id alone */
};

#define UN_HELPER_TIMEOUT_MS 10000

struct un_plan {
    struct un_idmap map;
    int writer[2];               /* enum un_writer, by enum un_kind */
    const char *reason[2];       /* why this writer, by enum un_kind */
    char helper[2][UN_PATH_MAX]; /* the program, where the writer is UN_WRITER_HELPER */
    int helper_timeout_ms;       /* how long both helpers may take */
    struct un_ranges clipped[2]; /* subordinate ranges that do not exist in our namespace */
    bool single_id;              /* whether more was wanted, and allow_single_id used ... */
    struct un_error wanted;      /* ... and why more could not be had */
    int setgroups;     /* what is written to /proc/PID/setgroups; UN_SETGROUPS_AUTO: nothing */
    int64_t become[2]; /* who we are inside, by enum un_kind; -1: nobody in particular */
    bool drop_groups;  /* we become somebody else outside too, whose groups are not ours */
    bool is_root;      /* we are uid 0 of the namespace that we are in */
};

/* Returns whether a plan for this request depends on where we are, ... */
bool un_plan_needs_parents(const struct un_request *request, const struct un_facts *facts);
/* ... and on what the system grants us. */
bool un_plan_needs_ranges(const struct un_request *request, const struct un_facts *facts);
/* Decides what is mapped and who writes it. Starts nothing and asks nobody: the same request and
 * facts give the same plan. */
int un_plan_make(const struct un_request *request, const struct un_facts *facts,
                 struct un_plan *plan, struct un_error *err);
const char *un_writer_name(int writer);
/* Returns whether the process itself writes all there is to write. Async-signal-safe. */
bool un_plan_writes_itself(const struct un_plan *plan);

/* Who we will be in the user namespace of a process, below ours, whose /proc directory is open as
 * `dir`: fills in its maps, who we become, and whether our groups are to be dropped. */
int un_plan_to_join(int dir, struct un_plan *plan, struct un_error *err);
/* Reads the facts that a request needs, of the calling process, and plans. */
int un_plan_for_caller(const struct un_request *request, const struct un_sources *sources,
                       struct un_facts *facts, struct un_plan *plan, struct un_error *err);

/* ---- writing the maps (sys/map_files.c, ns/helper.c) ----------------------------------------- */

/* Writes setgroups, uid_map and gid_map of the process whose /proc directory is open as `dir`, in
 * that order, but for the maps that helpers write. Async-signal-safe. */
int un_write_maps(int dir, const struct un_plan *plan, struct un_error *err);
/* Runs newuidmap and newgidmap, both at once, for the process whose /proc directory is open as
 * `dir`. That process must be a child of ours that is not reaped yet, so that its pid stays its
 * own. */
int un_run_helpers(int dir, const struct un_plan *plan, struct un_error *err);
/* Reads the maps back: an error unless they are those of the plan. */
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

/* A kept namespace: its descriptors by enum un_ns, -1 for those it does not have of its own. */
struct un_namespace {
    int fd[UN_NS_COUNT];
};

/* Returns the CLONE_NEW... flag of a namespace. */
uint64_t un_ns_flag(int ns);
/*
 * Who is root in a namespace may look into any process that comes in, so whatever comes in has
 * memory and descriptors of its own: the child program, usernsctl-child, which is executed first
 * and enters then. `child` says where it is; a static program that calls un_child_main() is one
 * itself, as "/proc/self/exe".
 */

/* Makes namespaces, the user namespace mapped as planned, and opens them. No process is left.
 * `flags` are CLONE_NEW... of the others; a PID namespace can't be made this way (EINVAL). */
int un_namespace_create(const struct un_plan *plan, uint64_t flags, const char *child,
                        struct un_namespace *ns, struct un_error *err);
void un_namespace_close(struct un_namespace *ns);
/* Moves the caller into the namespaces, the user namespace first. From before that on the process
 * is not dumpable (PR_SET_DUMPABLE(2const)): those inside can't look into it. Descriptors that they
 * must not have in any case are to be closed before. Async-signal-safe. */
int un_namespace_join(const struct un_namespace *ns, struct un_error *err);
/* Moves this process, which must have one thread only, into new namespaces. `plan` may be NULL:
 * then no user namespace is made. The process is not dumpable from then on, but while it opens the
 * three files of its own map; if `is_private`, not then either: the namespace is made by `child`,
 * as it is in any case where somebody else has to write the map. */
int un_enter(const struct un_plan *plan, uint64_t flags, const char *child, bool is_private,
             struct un_error *err);

/* ---- once inside (sys/setup.c, sys/mount.c) -------------------------------------------------- */

/* What is done inside the namespaces, in the order of the fields. Unset: NULL, 0, false, or -1. */
struct un_setup {
    bool own_stdio;            /* see un_own_stdio() */
    unsigned long propagation; /* MS_PRIVATE, MS_SLAVE or MS_SHARED, of all mounts */
    const char *root;          /* chroot(2) */
    const char *mount_proc;    /* where a new /proc is mounted, below that root */
    const char *cwd;           /* chdir(2) */
    uint64_t drop_bounding;    /* bit N: capability N leaves the bounding set */
    bool no_new_privs;         /* PR_SET_NO_NEW_PRIVS(2const) */
    bool no_membarrier;        /* see un_add_membarrier_filter() */
    const gid_t *groups;       /* setgroups(2) with group_count groups */
    int32_t group_count;       /* -1: leave them */
    int64_t gid;               /* setresgid(2) */
    int64_t uid;               /* setresuid(2) */
    bool keep_caps;            /* keep the capabilities across exec, as ambient ones */
    int pdeathsig;             /* the signal that we get when our parent dies ... */
    int parent_pidfd;          /* ... and who that is: it may be dead already */
};

void un_setup_init(struct un_setup *setup);
/* A process that is not dumpable stays so. Async-signal-safe. */
int un_setup_apply(const struct un_setup *setup, struct un_error *err);
/* mount(2). Async-signal-safe. */
int un_mount(const char *source, const char *target, const char *type, unsigned long flags,
             const char *data, struct un_error *err);
/* Shows the file or directory `source`, with all that is mounted below it, on `target`, which is
 * one of the same kind: both by descriptors, which O_PATH will do for, of this mount namespace.
 * What is shown has `attributes` (MOUNT_ATTR_... of mount_setattr(2)) from the beginning. `name` is
 * for the error. Linux 5.12; else the cause is mount-by-descriptor-missing. */
int un_bind(int source, int target, uint64_t attributes, const char *name, struct un_error *err);
/* Gives all mounts on and below `top`, a descriptor of a mount's root, the attributes `set`, and
 * takes `clear` from them. Linux 5.12, as above. */
int un_mount_restrict(int top, uint64_t set, uint64_t clear, const char *name,
                      struct un_error *err);

/* ---- running a command (sys/exec.c, sys/fds.c, sys/supervise.c, ns/spawn.c) ------------------ */

struct un_command {
    const char *file;        /* a path, or a name to be looked up along `path` */
    const char *path;        /* directories separated by colons; NULL: /bin:/usr/bin */
    const char *const *argv; /* ends with NULL */
    const char *const *envp; /* ends with NULL */
};

/* Replaces this program. Returns only if that failed, with -1. Async-signal-safe. */
int un_exec(const struct un_command *command, struct un_error *err);
/* Closes every descriptor from 3 on but those in `keep`, which is sorted and without doubles;
 * those are passed on. Async-signal-safe. */
int un_close_fds(const int *keep, size_t keep_count, struct un_error *err);

#define UN_START_TIMEOUT_MS 30000

struct un_spawn {
    const char *child;               /* see un_namespace_create(); for a bare command: NULL */
    const struct un_plan *plan;      /* a new user namespace, or NULL */
    const struct un_namespace *join; /* namespaces to join first, or NULL */
    uint64_t flags;                  /* CLONE_NEW... of further new namespaces */
    bool has_init;                   /* with CLONE_NEWPID: the process started, process 1, passes
                                      * signals on to the command, its child, reaps orphans, and
                                      * ends as the command does; 128+N if signal N killed that */
    int cgroup;                      /* a cgroup v2 directory to start in, never after; -1: ours */
    struct un_setup setup;
    struct un_command command;
    int stdio[3];         /* what becomes descriptors 0 to 2; -1: leave */
    bool close_fds;       /* close all from 3 on ... */
    const int *keep;      /* ... but these: sorted, without doubles */
    size_t keep_count;    /* */
    bool restore_signals; /* SIGPIPE and SIGXFSZ, which Python ignores, get their default action */
    int start_timeout_ms; /* how long the child may take to execute the command; -1: for ever */
    const uint64_t *signals; /* the signals that the command blocks; NULL: those that we block */
    bool new_session;        /* setsid(2) */
    int process_group;       /* setpgid(2); -1: leave */
    int umask;               /* umask(2); -1: leave */
};

void un_spawn_init(struct un_spawn *spawn);
/*
 * Starts a command in a child. 0: it has been exec'd, *pid is its id and *pidfd refers to it. -1:
 * no process is left. Any thread may call it, and one that is cancelled meanwhile is so afterwards.
 * The price does not depend on the size of the caller's memory. Root in a namespace that is joined
 * may keep the child from the command, so that it is killed when its time is over.
 *
 * A bare command, one that changes nothing of what it is and where (no namespace, no root, no ids,
 * no capabilities), is what the child executes; any other one the child program does, once inside.
 */
int un_spawn(const struct un_spawn *spawn, pid_t *pid, int *pidfd, struct un_error *err);
/* Returns how a process ended that was reaped already, as by the kernel where SIGCHLD is ignored: a
 * status as waitpid(2) has it; -1: the kernel does not tell (before Linux 6.15). */
int un_lost_status(int pidfd);
/*
 * Is process 1 of a PID namespace for the command `child`: passes signals on to it, and reaps all
 * children, then ends with the status of the command, or 128+N if signal N killed it: process 1
 * can't kill itself by a signal. The kernel then kills all that is left in the namespace
 * (pid_namespaces(7)). Does not return. All signals must be blocked since before `child` was
 * started, and SIGCHLD must not be ignored. `report`, or -1, is the only descriptor that process 1
 * keeps: it writes each status of the command there, an int as waitpid(2) gives it.
 */
void un_be_init(pid_t child, int report);
/* Ends this process by signal `sig`, which has killed a child, and without a core file. Returns if
 * that is not possible: process 1 of a PID namespace can't kill itself by a signal. */
void un_reraise(int sig);
/* Waits for a child on behalf of whoever waits for us, as usernsctl-exec --fork does: passes
 * signals on to it, and returns how it ended, as waitpid(2) gives it.
 * Signals that came before reach it too if they were blocked when it was forked. Waits for all
 * other children as well, so it is for a process that does nothing else any more. */
int un_stand_in(pid_t child);

/* ---- what a sandbox sees (launch/view.c, launch/command.c) -------------------------------------
 */

/* The directory tree that a sandbox will see: a root filesystem, and what runsc mounts on it. */
struct un_view;

/* Makes a view of a root filesystem, whose descriptor (O_PATH) becomes the view's. -1 with errno.
 */
int un_view_new(int top, struct un_view **view);
/* Notes that runsc will mount a file at a path inside that has no symbolic links. The first of two
 * at the same place counts. The descriptor (O_PATH) becomes the view's. `source` is what the file
 * is called outside; "" for nothing of the machine's. -1 with errno. */
int un_view_add(struct un_view *view, const char *inside, const char *source, int fd);
/* Notes that the sandbox may search the directories of these users and groups, which are told by
 * their ids outside, even where this process may not. -1 with errno. */
int un_view_set_owners(struct un_view *view, const struct un_idmap *ids);
void un_view_free(struct un_view *view);

/* How far a path in a sandbox leads. */
struct un_reached {
    int errnum;        /* why the path can't be followed; 0: it can be */
    bool is_certain;   /* whether the sandbox will fail with `errnum`, too */
    bool is_of_gvisor; /* whether the path leads to where gVisor alone knows what there is */
    bool is_made_up;   /* whether gVisor makes up the last directory, on the way to a mount */
    int fd;            /* the last file (O_PATH), the caller's to close; -1: there is none for us */
    char inside[UN_PATH_MAX];  /* the path of the last file, without symbolic links */
    char missing[UN_PATH_MAX]; /* what is left of the path, which does not exist; or "" */
};

/* Follows a path, and the symbolic links on it, as the kernel inside will. `start` is the directory
 * inside that a relative path starts at. */
void un_view_follow(const struct un_view *view, const char *start, const char *path,
                    struct un_reached *reached);

/* What keeps a sandbox from starting a command. */
struct un_command_fault {
    int step;                      /* UN_STEP_LOOKUP: it is not found; or UN_STEP_EXEC */
    int errnum;                    /* what execve(2) will fail with */
    char path[UN_PATH_MAX];        /* which file that is about: its path inside, or the command */
    char reason[4 * UN_PATH_MAX];  /* one sentence; "" for UN_STEP_LOOKUP */
    const char *remedy;            /* what mends it; "" where that depends on the caller */
    char interpreter[UN_PATH_MAX]; /* the path inside of a script's that is missing; or "" */
};

/* Checks that a command can be found along `search` and executed, from the directory `cwd` inside.
 * What only gVisor knows, and what this process may not look at, counts as fine: the sandbox finds
 * out. Returns whether there is a fault. */
bool un_view_check_command(const struct un_view *view, const char *command, const char *search,
                           const char *cwd, struct un_command_fault *fault);

/* ---- launches (launch/) ---------------------------------------------------------------------- */

/*
 * What is to be done from a request to the exec of runsc, as data: words, each ended by NUL.
 * launch/verbs.c lists them. Whoever has decided what a sandbox is like writes a launch, and here
 * it is performed: sources opened, then (once the namespaces are entered, by the caller) the root
 * filesystem and the files made, then the program executed that waits for runsc.
 */
#define UN_LAUNCH_MAX 33554432 /* bytes */
#define UN_LAUNCH_WORDS_MAX 262144

/* How many descriptors each process of a sandbox may have on this machine. gVisor's kernel has two
 * or three for a file of this machine that is open inside, and for each that it remembers (runsc's
 * flag --dcache), and one for a socket of this machine's network. */
#define UN_SANDBOX_FILES_MAX 16384

/* A launch that is performed. */
struct un_launch;

/* What a launch leaves to the moment at which it is performed. */
struct un_moment {
    const char *const *args;  /* the command, ends with NULL */
    const char *const *env;   /* its environment, ends with NULL */
    const char *cwd;          /* the directory inside that it starts in */
    const char *hostname;     /* NULL: none */
    const char *const *homes; /* the homes of the caller, absolute paths; ends with NULL */
    bool reraise_signal;      /* end by the signal that killed the command, not with 128+N */
};

/* Reads a launch, *launch. The bytes must stay for as long as it does. */
int un_launch_parse(const void *bytes, size_t size, struct un_launch **launch,
                    struct un_error *err);
/* Checks what the launch assumes of the machine, and opens its sources: before the namespaces are
 * entered. `fds` has one descriptor for each source, which stays the caller's, or -1 for those that
 * are to be opened here; NULL: all are. */
int un_launch_open(struct un_launch *launch, const int *fds, struct un_error *err);
/* Directories that no sandbox may see. */
struct un_hidden {
    const char *state;     /* that of the records */
    const char *templates; /* NULL: the caller has none */
};

/* Refuses a launch that was opened if a program inside would see such a directory, or could write
 * to `file`, which the launch was read from, or to the directory that this is in. */
int un_launch_guard(struct un_launch *launch, int file, const struct un_hidden *hidden,
                    struct un_error *err);
/* Makes the root filesystem and the files of the sandbox, in the mount namespace that this process
 * is in by now, whose mounts must be private. After a failure nothing is mounted. */
int un_launch_build(struct un_launch *launch, const struct un_moment *moment, struct un_error *err);
/* Writes config.json, gives up privileges, and executes the program that waits for runsc. Returns
 * only if that failed, with -1; privileges may be gone by then. */
int un_launch_exec(struct un_launch *launch, const struct un_moment *moment, struct un_error *err);
/* Closes all that the launch has open. What was mounted stays. NULL is no launch. */
void un_launch_close(struct un_launch *launch);

/* What was built: the directory with all of it, by its path and a descriptor; what the sandbox will
 * see. All stay the launch's. */
const char *un_launch_scratch(const struct un_launch *launch);
int un_launch_scratch_fd(const struct un_launch *launch);
const struct un_view *un_launch_view(const struct un_launch *launch);
/* The binds for runsc: their sources are paths that nobody else can change, and their destinations
 * have no symbolic links. */
size_t un_launch_bind_count(const struct un_launch *launch);
const char *un_launch_bind_source(const struct un_launch *launch, size_t bind);
const char *un_launch_bind_destination(const struct un_launch *launch, size_t bind);
/* Of the last failure: what mends it, where that is better known than by its cause, and the path
 * that it is about; else NULL. */
const char *un_launch_remedy(const struct un_launch *launch);
const char *un_launch_filename(const struct un_launch *launch);

/* Refuses to show what holds a directory, which need not be there yet, or a symbolic link on the
 * way there, or lies in the directory: each is a descriptor, of any kind, and a name for the error.
 * *which is the number of the one refused. */
int un_refuse_to_show(const int *fds, const char *const *names, size_t count, const char *directory,
                      size_t *which, struct un_error *err);
/* What of the machine itself would be seen where an open file is shown: /proc, /sys, /dev, or the
 * type of a file system that is like these. That is so if the file is one of them, lies in one, by
 * whatever path it was reached, or has one below it. NULL: nothing of it. -1 with errno. */
int un_machine_part(int fd, const char **part);
/* Returns whether the owner of a file may lead us anywhere. `path` is that of the file, without
 * symbolic links but itself. */
bool un_owner_is_trusted(uid_t uid, const char *path);
/* Returns whether a user other than the caller and root may write to an open directory, by its mode
 * or its access control list. A group counts as the caller's alone if it is root's, or has the
 * caller's number and no members. */
bool un_others_may_write(int directory);
/* Has what is written through a descriptor appended, if it is at the end of a file:
 * gVisor would overwrite what is there. -1 with errno: it is not open. */
int un_append_at_end(int fd);

#endif
