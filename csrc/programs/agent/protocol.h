/*
 * The protocol between usernsctl-agent and its host (docs/agent.md). Each message is one packet of
 * a SOCK_SEQPACKET socket; numbers are little-endian, as on both architectures that gVisor
 * supports, and structures have no padding. An incompatible change needs another AGENT_VERSION.
 */
#ifndef USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H
#define USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

#define AGENT_VERSION 1
#define AGENT_HELLO 0x544e4741U   /* the bytes "AGNT" */
#define AGENT_COMMAND 0x444e4d43U /* the bytes "CMND" */

/* Flags of struct agent_hello. */
#define AGENT_IS_FIRST 1 /* the agent is PID 1 */

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

/* Value of `groups` or `umask` in struct agent_header with which a command inherits the agent's
 * supplementary groups or umask. */
#define AGENT_UNCHANGED 0xffffffffU

/* The maximum sizes in bytes of a message, and of the strings of a command. AGENT_STRINGS_MAX
 * suffices, because Linux accepts at most 6 MiB of strings, which is three quarters of the maximum
 * stack size (execve(2)). */
#define AGENT_MESSAGE_MAX 65536
#define AGENT_STRINGS_MAX (8U << 20)

/* Descriptors of a command's message. AGENT_STRINGS, the pipe with the strings, is sent only if the
 * flag AGENT_STRINGS_APART is set. */
enum { AGENT_STDIN, AGENT_STDOUT, AGENT_STDERR, AGENT_SOCKET, AGENT_STRINGS, AGENT_FDS };

struct agent_hello {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint32_t pid;
};

/* The header of a command's message. After the header follow the groups, each a uint32_t, the
 * limits, each a struct agent_limit, and the strings. */
struct agent_header {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint32_t uid;
    uint32_t gid;
    uint32_t groups; /* number of supplementary groups, or AGENT_UNCHANGED */
    uint32_t limits;
    uint32_t args;
    uint32_t env;
    uint32_t size; /* size in bytes of the strings, which are in the message or in the pipe */
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
/* Steps of the start of a command, of which struct agent_failure names the one that failed. */
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

/* A message from the host, or a message from the agent. In a message from the agent, the value is a
 * pid (AGENT_STARTED) or an errno (AGENT_REFUSED). */
struct agent_note {
    uint16_t kind;
    uint16_t to; /* recipient of the signal of AGENT_SIGNAL, otherwise 0 */
    int32_t value;
};

struct agent_failure {
    struct agent_note note; /* note.value is an errno */
    uint32_t step;
};

struct agent_end {
    struct agent_note note; /* note.value is the command's wait status, as waitpid(2) reports it */
    uint64_t user_us;
    uint64_t system_us;
    uint64_t rss_kib;
};

/* Kinds of struct agent_record, which `usernsctl-agent --files` reads from its standard input or
 * writes to its standard output. */
enum {
    AGENT_DIRECTORY =
        1,       /* a name follows; then the records of the directory's entries, and AGENT_LEAVE */
    AGENT_FILE,  /* a name follows; then AGENT_DATA any number of times, and AGENT_LEAVE */
    AGENT_LINK,  /* name and target of a symbolic link follow */
    AGENT_OTHER, /* name of a FIFO, socket or device follows, which is not copied */
    AGENT_DATA,  /* a part of a file's content follows */
    AGENT_LEAVE, /* end of a directory or file; mode is 1 if a file changed while it was read */
    AGENT_STOPPED, /* the copy has failed; mode is the errno; the path in the copied tree follows */
    AGENT_DONE,
};

/* The maximum depth of nested directories in a tree. Sender and receiver have an open descriptor
 * for each of the directories. */
#define AGENT_DEPTH_MAX 256
/* The maximum length of a file name (NAME_MAX), and the size of a buffer for a path or a link's
 * target, including the NUL (PATH_MAX). */
#define AGENT_NAME_MAX 255
#define AGENT_PATH_SIZE 4096
/* The maximum size of the data in one record. */
#define AGENT_DATA_MAX (256 * 1024)

/* A record about a file or a part of its content. The record of the copied file or directory itself
 * has an empty name. */
struct agent_record {
    uint32_t kind;
    uint32_t mode; /* st_mode of a file (inode(7)), or the value that the kind of record defines */
    uint32_t size; /* size in bytes of the text or data that follows */
    uint32_t nanoseconds; /* with `seconds`, the time of the last modification */
    int64_t seconds;
    uint64_t length; /* st_size of a file; for a symbolic link, the length of the link's name */
} __attribute__((packed));

static_assert(sizeof(struct agent_record) == 32, "");
static_assert(sizeof(struct agent_hello) == 12, "");
static_assert(sizeof(struct agent_header) == 52, "");
static_assert(sizeof(struct agent_limit) == 20, "");
static_assert(sizeof(struct agent_note) == 8, "");
static_assert(sizeof(struct agent_failure) == 12, "");
static_assert(sizeof(struct agent_end) == 32, "");

#endif
