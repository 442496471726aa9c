/* The records that a launch is made of. Internal. */
#ifndef USERNSCTL_LAUNCH_VERBS_H
#define USERNSCTL_LAUNCH_VERBS_H

#include "include/usernsctl.h"

/* ---- verbs.c: the records that a launch is made of ------------------------------------------- */

/* By name, in the order of strcmp(3). */
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

/* The parts of a launch, in the order in which they come. */
enum un_part {
    UN_PART_ASSUMED,
    UN_PART_IDS,
    UN_PART_SOURCES,
    UN_PART_SCRATCH,
    UN_PART_STEPS,
    UN_PART_FILES,
    UN_PART_CONFIG,
    UN_PART_MOMENT,
    UN_PART_GIVE_UP,
    UN_PART_WATCHER,
    UN_PART_END
};

/* What an argument of a record is. */
enum un_argument {
    UN_ARG_TEXT = 1,
    UN_ARG_JSON,        /* UTF-8: a piece of a config.json */
    UN_ARG_MARKED,      /* text in which an @ begins a mark: see marks.c */
    UN_ARG_NAME,        /* one name of a directory */
    UN_ARG_SCRATCH,     /* a path relative to scratch, without . and .., with marks */
    UN_ARG_PATH,        /* an absolute path, of the machine or inside */
    UN_ARG_SOURCE,      /* the number of a source that came before */
    UN_ARG_BIND,        /* the number of a bind that came before */
    UN_ARG_MODE,        /* octal, as st_mode */
    UN_ARG_PERMISSIONS, /* octal, up to 07777 */
    UN_ARG_NUMBER,      /* decimal */
    UN_ARG_ID,          /* a uid or gid, decimal */
    UN_ARG_SCORE,       /* -1000 to 1000 */
    UN_ARG_HOW,         /* own, follow or exact */
    UN_ARG_ACCESS,      /* ro or rw */
    UN_ARG_KIND,        /* empty or other */
    UN_ARG_ID_OPTION,   /* an option of usernsctl-exec about the map */
    UN_ARG_VARIABLE,    /* the name of a variable */
    UN_ARG_SETTING      /* NAME=VALUE */
};

#define UN_VERB_ARGUMENTS 4

struct un_verb_rule {
    const char *name;
    uint8_t part;                        /* enum un_part */
    bool once;                           /* whether a second one is an error */
    uint8_t argument[UN_VERB_ARGUMENTS]; /* enum un_argument, ended by 0 unless there are so many */
};

/* By enum un_verb. */
extern const struct un_verb_rule un_verb_rules[UN_VERB_COUNT];

/* Returns the verb of this name, or UN_VERB_COUNT. */
enum un_verb un_verb_find(const char *name);
/* What is wrong with an argument, as "it must be ..."; NULL: nothing. `sources` and `binds` are how
 * many there were before. */
const char *un_argument_fault(int argument, const char *word, size_t sources, size_t binds);
/* Returns the number that a word is: one without a fault. */
uint64_t un_argument_number(const char *word);
unsigned un_argument_mode(const char *word);

/* ---- marks.c: what a word of a launch leaves to the moment ----------------------------------- */

/* What the marks stand for: @s, @i and @t; @@ is one @. */
struct un_marks {
    char scratch[UN_PATH_MAX]; /* the path of the directory with all that is made */
    char id[17];               /* random: of this performance alone */
    char stamp[48];            /* the time of it, YYYYmmdd-HHMMSS.micros, UTC */
};

/* Draws the id and the stamp. -1 with errno. */
int un_marks_draw(struct un_marks *marks);
/* Returns whether each @ of a word begins a mark: @@, or one whose letter is in `known`. */
bool un_marks_valid(const char *word, const char *known);
/* Returns the length of a valid word with its marks replaced; the text itself goes to `to`, ended
 * by NUL, unless that is NULL. */
size_t un_marks_expand(const struct un_marks *marks, const char *word, char *to);

#endif
