/* The verbs of a launch's records, and the arguments of each verb. A launch is a list of steps that
 * start a sandbox; each record describes one step. Internal to usernsctl. */
#ifndef USERNSCTL_LAUNCH_VERBS_H
#define USERNSCTL_LAUNCH_VERBS_H

#include "include/usernsctl.h"

/* ---- verbs.c: the records of a launch -------------------------------------------------------- */

/* The sections of a launch, in their order. Each verb may occur in only one section. */
enum un_part {
    UN_PART_REMEDY,
    UN_PART_IDS,
    UN_PART_SOURCES,
    UN_PART_ASSUMED,
    UN_PART_SCRATCH,
    UN_PART_STEPS,
    UN_PART_FILES,
    UN_PART_CONFIG,
    UN_PART_MOMENT,
    UN_PART_PRIVILEGES,
    UN_PART_WATCHER,
    UN_PART_END
};

/* Types of a record's arguments. */
enum un_argument {
    UN_ARG_TEXT = 1,
    UN_ARG_JSON,   /* a fragment of config.json, in UTF-8 */
    UN_ARG_MARKED, /* text with placeholders (struct un_marks) */
    UN_ARG_NAME,   /* the name of a directory entry */
    /* a path relative to the scratch directory, with placeholders, but without "." and ".." */
    UN_ARG_SCRATCH,
    UN_ARG_PATH,        /* an absolute path on the host or in the sandbox */
    UN_ARG_SOURCE,      /* the index of a preceding `source` record */
    UN_ARG_BIND,        /* the index of a preceding `bind` record */
    UN_ARG_MODE,        /* file type and permissions in octal, as in st_mode (inode(7)) */
    UN_ARG_PERMISSIONS, /* permissions in octal, up to 07777 */
    UN_ARG_NUMBER,      /* a decimal number */
    UN_ARG_SUM,         /* a checksum as un_content_sum() computes it */
    UN_ARG_ID,          /* a uid or gid in decimal */
    UN_ARG_SCORE,       /* an OOM score adjustment, -1000 to 1000 */
    UN_ARG_HOW, /* how to open a source: own, follow or exact, as un_open_own(), un_open_follow() or
                   un_open_exact() do */
    UN_ARG_ACCESS,    /* access to a bind mount: ro (read-only) or rw (writable) */
    UN_ARG_KIND,      /* the content of a filesystem that gVisor mounts: empty or other */
    UN_ARG_ID_OPTION, /* an option of usernsctl-exec that maps ids */
    UN_ARG_VARIABLE,  /* the name of an environment variable */
    UN_ARG_SETTING    /* an environment variable with its value, NAME=VALUE */
};

/* All verbs, sorted as by strcmp(3). The columns are the suffix of UN_VERB_..., the name, the
 * section of the launch, whether the verb may occur only once, and the types of the arguments. */
#define UN_EACH_VERB(VERB)                                                                         \
    VERB(ARG, "arg", MOMENT, false, UN_ARG_TEXT)                                                   \
    VERB(ASSUME, "assume", ASSUMED, false, UN_ARG_SOURCE, UN_ARG_NUMBER, UN_ARG_MODE, UN_ARG_SUM)  \
    VERB(BIND, "bind", STEPS, false, UN_ARG_SOURCE, UN_ARG_PATH, UN_ARG_ACCESS)                    \
    VERB(CWD, "cwd", MOMENT, true, UN_ARG_PATH)                                                    \
    VERB(CWD_MOMENT, "cwd-moment", MOMENT, true, 0)                                                \
    VERB(DEBUG_LOG, "debug-log", FILES, true, UN_ARG_SOURCE)                                       \
    VERB(DIRECTORY, "directory", STEPS, false, UN_ARG_PATH, UN_ARG_PERMISSIONS)                    \
    VERB(DISCARD, "discard", FILES, false, UN_ARG_SCRATCH)                                         \
    VERB(DROP_BOUNDING, "drop-bounding", PRIVILEGES, true, 0)                                      \
    VERB(END, "end", END, true, 0)                                                                 \
    VERB(ENV_ALL, "env-all", MOMENT, false, 0)                                                     \
    VERB(ENV_NAME, "env-name", MOMENT, false, UN_ARG_VARIABLE)                                     \
    VERB(ENV_NEED, "env-need", MOMENT, false, UN_ARG_VARIABLE)                                     \
    VERB(ENV_SET, "env-set", MOMENT, false, UN_ARG_SETTING)                                        \
    VERB(FILE, "file", STEPS, false, UN_ARG_SOURCE, UN_ARG_PATH)                                   \
    VERB(GROUP, "group", IDS, false, UN_ARG_ID)                                                    \
    VERB(GUARDED, "guarded", STEPS, false, UN_ARG_NAME)                                            \
    VERB(HIDE_PRIVATE, "hide-private", STEPS, false, UN_ARG_PATH)                                  \
    VERB(HOME, "home", STEPS, false, UN_ARG_PATH)                                                  \
    VERB(HOME_MOMENT, "home-moment", STEPS, true, 0)                                               \
    VERB(IDMAP, "idmap", IDS, false, UN_ARG_ID_OPTION)                                             \
    VERB(JSON, "json", CONFIG, false, UN_ARG_JSON)                                                 \
    VERB(JSON_ARGS, "json-args", CONFIG, false, 0)                                                 \
    VERB(JSON_BIND_DESTINATION, "json-bind-destination", CONFIG, false, UN_ARG_BIND)               \
    VERB(JSON_BIND_SOURCE, "json-bind-source", CONFIG, false, UN_ARG_BIND)                         \
    VERB(JSON_CWD, "json-cwd", CONFIG, false, 0)                                                   \
    VERB(JSON_ENV, "json-env", CONFIG, false, 0)                                                   \
    VERB(JSON_GID_MAP, "json-gid-map", CONFIG, false, 0)                                           \
    VERB(JSON_HOSTNAME, "json-hostname", CONFIG, false, 0)                                         \
    VERB(JSON_OPEN_FILES, "json-open-files", CONFIG, false, 0)                                     \
    VERB(JSON_ROOT, "json-root", CONFIG, false, 0)                                                 \
    VERB(JSON_SEVERAL, "json-several", CONFIG, false, UN_ARG_JSON)                                 \
    VERB(JSON_TERMINAL, "json-terminal", CONFIG, false, 0)                                         \
    VERB(JSON_UID_MAP, "json-uid-map", CONFIG, false, 0)                                           \
    VERB(JSON_USER, "json-user", CONFIG, false, 0)                                                 \
    VERB(LIMITS, "limits", FILES, true, UN_ARG_NUMBER, UN_ARG_NUMBER, UN_ARG_NUMBER)               \
    VERB(LINK, "link", STEPS, false, UN_ARG_PATH, UN_ARG_TEXT)                                     \
    VERB(MACHINE, "machine", STEPS, false, UN_ARG_NAME)                                            \
    VERB(MAKE, "make", FILES, false, UN_ARG_SCRATCH, UN_ARG_PERMISSIONS)                           \
    VERB(MOUNT, "mount", STEPS, false, UN_ARG_PATH, UN_ARG_KIND)                                   \
    VERB(NO_MEMBARRIER, "no-membarrier", PRIVILEGES, true, 0)                                      \
    VERB(NO_NEW_PRIVS, "no-new-privs", PRIVILEGES, true, 0)                                        \
    VERB(OOM_SCORE, "oom-score", IDS, true, UN_ARG_SCORE)                                          \
    VERB(PRIVATE_NETWORK, "private-network", PRIVILEGES, true, 0)                                  \
    VERB(PROGRAM, "program", FILES, false, UN_ARG_SOURCE)                                          \
    VERB(PROGRAM_LINK, "program-link", FILES, false, UN_ARG_SOURCE, UN_ARG_SCRATCH)                \
    VERB(PROGRAM_PATH, "program-path", FILES, false, UN_ARG_SOURCE)                                \
    VERB(READ_ONLY, "read-only", STEPS, true, 0)                                                   \
    VERB(REMEDY, "remedy", REMEDY, true, UN_ARG_TEXT)                                              \
    VERB(RESOLVER, "resolver", STEPS, true, 0)                                                     \
    VERB(RUNSC_ENV, "runsc-env", WATCHER, false, UN_ARG_SETTING)                                   \
    VERB(SCRATCH, "scratch", SCRATCH, false, UN_ARG_PATH)                                          \
    VERB(SNAPSHOT, "snapshot", STEPS, false, UN_ARG_NAME)                                          \
    VERB(SOURCE, "source", SOURCES, false, UN_ARG_HOW, UN_ARG_PATH)                                \
    VERB(TERMINAL_MOMENT, "terminal-moment", MOMENT, true, 0)                                      \
    VERB(TERMINAL_NEED, "terminal-need", MOMENT, true, 0)                                          \
    VERB(TMPFS, "tmpfs", FILES, false, UN_ARG_SCRATCH, UN_ARG_NUMBER)                              \
    VERB(TOUCH, "touch", FILES, false, UN_ARG_SCRATCH)                                             \
    VERB(TREE, "tree", STEPS, true, UN_ARG_SOURCE)                                                 \
    VERB(USER, "user", IDS, true, UN_ARG_ID, UN_ARG_ID)                                            \
    VERB(WATCH, "watch", WATCHER, false, UN_ARG_MARKED)

enum un_verb {
#define UN_VERB_ID(id, ...) UN_VERB_##id,
    UN_EACH_VERB(UN_VERB_ID) UN_VERB_COUNT
#undef UN_VERB_ID
};

#define UN_VERB_ARGUMENTS 4

struct un_verb_rule {
    const char *name;
    uint8_t part; /* the section of the launch in which the verb occurs (enum un_part) */
    bool once;    /* whether the verb may occur only once */
    /* types of the arguments (enum un_argument); 0 after the last, if there are fewer than
     * UN_VERB_ARGUMENTS */
    uint8_t argument[UN_VERB_ARGUMENTS];
};

/* For each verb, where it may occur in a launch and which arguments it takes; indexed by enum
 * un_verb. */
extern const struct un_verb_rule un_verb_rules[UN_VERB_COUNT];

/* Returns the verb with the given name, or UN_VERB_COUNT if there is no such verb. */
enum un_verb un_verb_find(const char *name);
/* Returns NULL if an argument is valid, otherwise a description of valid arguments for the error
 * message. `sources` and `binds` are the numbers of `source` and `bind` records that precede the
 * argument. */
const char *un_argument_fault(int argument, const char *word, size_t sources, size_t binds);
/* un_argument_number() returns the value of a valid decimal argument, un_argument_mode() that of a
 * valid octal argument. */
uint64_t un_argument_number(const char *word);
unsigned un_argument_mode(const char *word);

/* ---- marks.c: placeholders in arguments of a launch ------------------------------------------ */

/* The values of the placeholders @s, @i and @t. @@ stands for a literal @. */
struct un_marks {
    char scratch[UN_PATH_MAX]; /* value of @s: path of the tmpfs for the sandbox's files */
    char id[17]; /* value of @i: an id that is drawn at random whenever the launch is performed */
    char stamp[48]; /* value of @t: the current time as YYYYmmdd-HHMMSS.micros in UTC */
};

/* Sets the values of @i and @t. Returns 0, or -1 with errno set. */
int un_marks_draw(struct un_marks *marks);
/* Returns whether each @ in a text begins either @@ or a placeholder whose letter is in `known`. */
bool un_marks_valid(const char *word, const char *known);
/* Expands the placeholders in a valid text. Stores the result in `to`, terminated by NUL, unless
 * `to` is NULL. Returns the length of the result. */
size_t un_marks_expand(const struct un_marks *marks, const char *word, char *to);

#endif
