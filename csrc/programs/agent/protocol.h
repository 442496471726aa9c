/*
 * The protocol between usernsctl-agent and its host (docs/agent.md). Each message is one packet of
 * a SOCK_SEQPACKET socket; numbers are little-endian, as both of gVisor's architectures are,
 * without padding. An incompatible change needs another AGENT_VERSION.
 */
#ifndef USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H
#define USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

#define AGENT_VERSION 1
#define AGENT_HELLO 0x544e4741U   /* "AGNT" */
#define AGENT_COMMAND 0x444e4d43U /* "CMND" */

/* Flags of struct agent_hello. */
#define AGENT_IS_FIRST 1 /* the agent is process 1 */

#define AGENT_IS_APART 2 /* no command can signal the agent without CAP_KILL */

/* Flags of struct agent_header. */
#define AGENT_NEW_SESSION 1
#define AGENT_TERMINAL 2
#define AGENT_STRINGS_APART 4
#define AGENT_PROGRAM 8
#define AGENT_IDS 16
#define AGENT_NEW_GROUP 32
#define AGENT_CAPABILITIES 64
#define AGENT_ALL_FLAGS 127

/* Value of `groups` or `umask` with which a command keeps those of the agent. */
#define AGENT_UNCHANGED 0xffffffffU

/* The maximum sizes of a message, and of the strings of a command. Linux accepts at most 6 MiB of
 * strings, three quarters of the maximum stack size (execve(2)). */
#define AGENT_MESSAGE_MAX 65536
#define AGENT_STRINGS_MAX (8U << 20)

/* Descriptors of a command's message. AGENT_STRINGS is sent only with AGENT_STRINGS_APART. */
enum { AGENT_STDIN, AGENT_STDOUT, AGENT_STDERR, AGENT_SOCKET, AGENT_STRINGS, AGENT_FDS };

struct agent_hello {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint32_t pid;
};

/* The header of a command's message. The groups, each a uint32_t, the limits, and the strings
 * follow. */
struct agent_header {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint32_t uid;
    uint32_t gid;
    uint32_t groups; /* number of groups, or AGENT_UNCHANGED */
    uint32_t limits;
    uint32_t args;
    uint32_t env;
    uint32_t size; /* size of the strings, in the message or in the pipe */
    uint32_t umask;
    uint16_t rows;
    uint16_t columns;
    uint64_t capabilities;
} __attribute__((packed));

struct agent_limit {
    uint32_t resource;
    uint64_t soft;
    uint64_t hard;
} __attribute__((packed));

/* Kinds of messages from the agent. */
enum { AGENT_STARTED = 1, AGENT_FAILED, AGENT_ENDED, AGENT_REFUSED };
/* Steps of a failure. */
enum {
    AGENT_STEP_STRINGS = 1,
    AGENT_STEP_CWD,
    AGENT_STEP_IDS,
    AGENT_STEP_LIMITS,
    AGENT_STEP_EXEC,
    AGENT_STEP_FORK,
    AGENT_STEP_TERMINAL,
    AGENT_STEP_LOOKUP,
};
/* Kinds of messages from the host. */
enum { AGENT_SIGNAL = 1, AGENT_WINDOW };
/* Recipients of a signal. */
enum { AGENT_TO_PROCESS, AGENT_TO_GROUP, AGENT_TO_TREE };

/* A message of the host; or of the agent, with a pid (AGENT_STARTED) or an errno (AGENT_REFUSED).
 */
struct agent_note {
    uint16_t kind;
    uint16_t to; /* recipient of AGENT_SIGNAL, otherwise 0 */
    int32_t value;
};

struct agent_failure {
    struct agent_note note; /* note.value is an errno */
    uint32_t step;
};

struct agent_end {
    struct agent_note note; /* note.value is a wait status, as of waitpid(2) */
    uint64_t user_us;
    uint64_t system_us;
    uint64_t rss_kib;
};

/* Kinds of records about files, which `usernsctl-agent --files` reads from its standard input or
 * writes to its standard output. */
enum {
    AGENT_DIRECTORY = 1, /* a name follows; then the records of its entries, and AGENT_LEAVE */
    AGENT_FILE,          /* a name follows; then AGENT_DATA any number of times, and AGENT_LEAVE */
    AGENT_LINK,          /* a name and the target follow */
    AGENT_OTHER,         /* a name follows: a FIFO, socket or device, which is not copied */
    AGENT_DATA,          /* a part of the content of a file follows */
    AGENT_LEAVE,   /* the end of a directory or file; mode is 1 if it changed while it was read */
    AGENT_STOPPED, /* the copy has failed; mode is the errno; a path follows, relative to the copied
                      tree */
    AGENT_DONE,
};

/* The maximum number of nested directories of a tree: each has an open descriptor on both sides. */
#define AGENT_DEPTH_MAX 256
/* The maximum length of a name (NAME_MAX), and sizes of a path or a link's target with its NUL
 * (PATH_MAX). */
#define AGENT_NAME_MAX 255
#define AGENT_PATH_SIZE 4096
/* The maximum size of the data in one record. */
#define AGENT_DATA_MAX (256 * 1024)

/* A record about a file. The copied file or directory itself has an empty name. */
struct agent_record {
    uint32_t kind;
    uint32_t mode;        /* st_mode of a file (inode(7)) */
    uint32_t size;        /* size of the text or data that follows */
    uint32_t nanoseconds; /* time of the last modification, with `seconds` */
    int64_t seconds;
    uint64_t length; /* st_size of a file; for a link, the length of its name */
} __attribute__((packed));

static_assert(sizeof(struct agent_record) == 32, "");
static_assert(sizeof(struct agent_hello) == 12, "");
static_assert(sizeof(struct agent_header) == 52, "");
static_assert(sizeof(struct agent_limit) == 20, "");
static_assert(sizeof(struct agent_note) == 8, "");
static_assert(sizeof(struct agent_failure) == 12, "");
static_assert(sizeof(struct agent_end) == 32, "");

#endif
