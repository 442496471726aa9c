/* A launch that is performed, from inside. Internal. */
#ifndef USERNSCTL_LAUNCH_LAUNCH_H
#define USERNSCTL_LAUNCH_LAUNCH_H

#include "launch/marks.h"
#include "launch/verbs.h"

/* What the program that waits for runsc is told so by, before all its other words. */
#define UN_RERAISE_SIGNAL "--reraise-signal"

struct un_record {
    enum un_verb verb;
    const char *words; /* its arguments, one after the other */
};

/* A file of the machine that is held. */
struct un_source {
    int fd;       /* -1: not opened yet */
    bool is_ours; /* to close */
    char *path;   /* without symbolic links */
};

/* What runsc is to bind. */
struct un_bind {
    char *shown;  /* the path to bind from */
    char *inside; /* the path to bind to */
};

/* What will be seen somewhere inside once runsc has mounted it. */
struct un_cover {
    char *inside; /* without symbolic links */
    char *source; /* what it is called outside; "" for nothing of the machine's */
    int fd;
};

/* The root filesystem in the making. All descriptors are O_PATH; -1: not there yet. */
struct un_root {
    int scratch; /* the directory that all of it is in */
    int spare;   /* what is mounted somewhere below top */
    int shown;   /* what runsc will bind */
    int top;     /* what becomes / inside */
    dev_t device;
    unsigned count;         /* of entries made in spare and shown */
    uid_t machine_owner;    /* who owns / of the machine, if that is shown ... */
    bool has_machine;       /* ... and whether it is */
    struct un_cover *cover; /* what is mounted over it by runsc, in the order it was noted */
    size_t cover_count;
};

struct un_launch {
    const char *version; /* of the package that wrote it */
    struct un_record *record;
    size_t record_count;
    size_t of_verb[UN_VERB_COUNT]; /* how many records of each there are */
    struct un_source *source;      /* as many as there are such records ... */
    struct un_bind *bind;          /* ... and here, too ... */
    size_t bind_count;             /* ... of which so many are done */
    bool is_root;                  /* whether whoever opened the sources is */
    struct un_root root;
    struct un_marks marks;
    char remedy[UN_PATH_MAX]; /* of the last failure; "": its cause has one, or nobody */
    char filename[UN_PATH_MAX];
};

/* An argument of a record. */
const char *un_record_word(const struct un_record *record, size_t number);
/* The source that an argument of a record names. */
struct un_source *un_record_source(const struct un_launch *launch, const struct un_record *record,
                                   size_t number);
/* The first record with this verb, or NULL. */
const struct un_record *un_launch_first(const struct un_launch *launch, enum un_verb verb);

/* Records a failure of a call by errno, about a file. Returns -1. */
int un_launch_fail_file(struct un_launch *launch, const char *path, struct un_error *err);
/* What mends the failure that is about to be recorded, and which path it is about, by printf's
 * rules and as it is. Either may be NULL. */
void un_launch_tell(struct un_launch *launch, const char *filename, const char *remedy, ...)
    __attribute__((format(printf, 3, 4)));
/* Whether what is to be found by its path still is: what was mounted may cover it. */
int un_check_programs(struct un_launch *launch, struct un_error *err);
/* Closes a descriptor if it is one, and keeps errno. */
void un_close_quietly(int fd);

#endif
