/* The records of a launch. Internal. */
#ifndef USERNSCTL_LAUNCH_VERBS_H
#define USERNSCTL_LAUNCH_VERBS_H

#include "include/usernsctl.h"

/* ---- verbs.c: the records of a launch -------------------------------------------------------- */

/* Verbs by name, in the order of strcmp(3). */
enum un_verb {
    UN_VERB_ARG,
    UN_VERB_ASSUME,
    UN_VERB_BIND,
    UN_VERB_CWD,
    UN_VERB_CWD_MOMENT,
    UN_VERB_DEBUG_LOG,
    UN_VERB_DIRECTORY,
    UN_VERB_DISCARD,
    UN_VERB_DROP_BOUNDING,
    UN_VERB_END,
    UN_VERB_ENV_ALL,
    UN_VERB_ENV_NAME,
    UN_VERB_ENV_NEED,
    UN_VERB_ENV_SET,
    UN_VERB_FILE,
    UN_VERB_GUARDED,
    UN_VERB_HIDE_PRIVATE,
    UN_VERB_HOME,
    UN_VERB_HOME_MOMENT,
    UN_VERB_IDMAP,
    UN_VERB_JSON,
    UN_VERB_JSON_ARGS,
    UN_VERB_JSON_BIND_DESTINATION,
    UN_VERB_JSON_BIND_SOURCE,
    UN_VERB_JSON_CWD,
    UN_VERB_JSON_ENV,
    UN_VERB_JSON_GID_MAP,
    UN_VERB_JSON_HOSTNAME,
    UN_VERB_JSON_ROOT,
    UN_VERB_JSON_SEVERAL,
    UN_VERB_JSON_UID_MAP,
    UN_VERB_LINK,
    UN_VERB_MACHINE,
    UN_VERB_MAKE,
    UN_VERB_MOUNT,
    UN_VERB_NO_MEMBARRIER,
    UN_VERB_NO_NEW_PRIVS,
    UN_VERB_OOM_SCORE,
    UN_VERB_PROGRAM,
    UN_VERB_PROGRAM_LINK,
    UN_VERB_PROGRAM_PATH,
    UN_VERB_READ_ONLY,
    UN_VERB_REMEDY,
    UN_VERB_RESOLVER,
    UN_VERB_RUNSC_ENV,
    UN_VERB_SCRATCH,
    UN_VERB_SNAPSHOT,
    UN_VERB_SOURCE,
    UN_VERB_TMPFS,
    UN_VERB_TOUCH,
    UN_VERB_TREE,
    UN_VERB_USER,
    UN_VERB_WATCH,
    UN_VERB_COUNT
};

/* The parts of a launch, in their order. */
enum un_part {
    UN_PART_ASSUMED,
    UN_PART_IDS,
    UN_PART_SOURCES,
    UN_PART_SCRATCH,
    UN_PART_STEPS,
    UN_PART_FILES,
    UN_PART_CONFIG,
    UN_PART_MOMENT,
    UN_PART_PRIVILEGES,
    UN_PART_WATCHER,
    UN_PART_END
};

/* Types of arguments. */
enum un_argument {
    UN_ARG_TEXT = 1,
    UN_ARG_JSON,        /* UTF-8: a fragment of config.json */
    UN_ARG_MARKED,      /* text in which @ begins a mark, see struct un_marks */
    UN_ARG_NAME,        /* the name of a directory entry */
    UN_ARG_SCRATCH,     /* a path relative to scratch, without . and .., with marks */
    UN_ARG_PATH,        /* an absolute path, of the host or inside */
    UN_ARG_SOURCE,      /* the index of an earlier source */
    UN_ARG_BIND,        /* the index of an earlier bind */
    UN_ARG_MODE,        /* octal, as st_mode */
    UN_ARG_PERMISSIONS, /* octal, up to 07777 */
    UN_ARG_NUMBER,      /* decimal */
    UN_ARG_ID,          /* a uid or gid, decimal */
    UN_ARG_SCORE,       /* -1000 to 1000 */
    UN_ARG_HOW,         /* own, follow or exact */
    UN_ARG_ACCESS,      /* ro or rw */
    UN_ARG_KIND,        /* empty or other */
    UN_ARG_ID_OPTION,   /* an option of usernsctl-exec about the map */
    UN_ARG_VARIABLE,    /* the name of an environment variable */
    UN_ARG_SETTING      /* NAME=VALUE */
};

#define UN_VERB_ARGUMENTS 4

struct un_verb_rule {
    const char *name;
    uint8_t part;                        /* enum un_part */
    bool once;                           /* whether the verb may occur only once */
    uint8_t argument[UN_VERB_ARGUMENTS]; /* enum un_argument, terminated by 0 if fewer than
                                            UN_VERB_ARGUMENTS */
};

/* Indexed by enum un_verb. */
extern const struct un_verb_rule un_verb_rules[UN_VERB_COUNT];

/* Returns the verb of this name, or UN_VERB_COUNT. */
enum un_verb un_verb_find(const char *name);
/* Checks an argument. Returns NULL if it is valid, otherwise a description of valid arguments for
 * an error message. `sources` and `binds` are the numbers of earlier records of these verbs. */
const char *un_argument_fault(int argument, const char *word, size_t sources, size_t binds);
/* Convert a valid argument to a number. */
uint64_t un_argument_number(const char *word);
unsigned un_argument_mode(const char *word);

/* ---- marks.c: placeholders in arguments of a launch ------------------------------------------ */

/* The values of the marks @s, @i and @t; @@ is a single @. */
struct un_marks {
    char scratch[UN_PATH_MAX]; /* path of the tmpfs for the files of the sandbox */
    char id[17];               /* random, different each time the launch is performed */
    char stamp[48];            /* time of the start, YYYYmmdd-HHMMSS.micros, UTC */
};

/* Sets the id and the stamp. Returns -1 with errno. */
int un_marks_draw(struct un_marks *marks);
/* Returns whether each @ in a text begins @@ or a mark whose letter is in `known`. */
bool un_marks_valid(const char *word, const char *known);
/* Expands the marks in a valid text into `to`, terminated by NUL, unless `to` is NULL. Returns the
 * length of the result. */
size_t un_marks_expand(const struct un_marks *marks, const char *word, char *to);

#endif
