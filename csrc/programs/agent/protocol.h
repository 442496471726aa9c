/* The protocol between usernsctl-agent and the host (docs/agent.md). Each message is a packet on a
 * SOCK_SEQPACKET socket. Numbers are little-endian, like both architectures that gVisor supports,
 * and structures have no padding. An incompatible change must change AGENT_VERSION. */
#ifndef USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H
#define USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

#define AGENT_VERSION 1
#define AGENT_HELLO 0x544e4741U   /* the bytes "AGNT" */
#define AGENT_COMMAND 0x444e4d43U /* the bytes "CMND" */

/* Flags of struct agent_hello. */
#define AGENT_IS_FIRST 1 /* the agent is PID 1 of the sandbox */

#define AGENT_IS_APART 2 /* commands can't send signals to the agent without CAP_KILL */

/* Flags of struct agent_header. */
#define AGENT_NEW_SESSION 1
#define AGENT_TERMINAL 2
#define AGENT_STRINGS_APART 4
#define AGENT_PROGRAM 8
#define AGENT_IDS 16
#define AGENT_NEW_GROUP 32
#define AGENT_CAPABILITIES 64
#define AGENT_ALL_FLAGS 127

/* Value of `groups` or `umask` in struct agent_header for a command that inherits the agent's
 * supplementary groups or umask. */
#define AGENT_UNCHANGED 0xffffffffU

/* Maximum size in bytes of a message. */
#define AGENT_MESSAGE_MAX 65536
/* Maximum size in bytes of a command's strings. Linux itself accepts at most 6 MiB, three quarters
 * of the default limit of the stack size (execve(2)). */
#define AGENT_STRINGS_MAX (8U << 20)

/* Indexes of the descriptors in a message that requests a command. AGENT_STRINGS, a pipe with the
 * strings, is sent only if AGENT_STRINGS_APART is set. */
enum { AGENT_STDIN, AGENT_STDOUT, AGENT_STDERR, AGENT_SOCKET, AGENT_STRINGS, AGENT_FDS };

struct agent_hello {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint32_t pid;
};

/* The header of a message that requests a command. The header is followed by the supplementary
 * groups, each a uint32_t, by the limits, each a struct agent_limit, and by the strings. */
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
    uint32_t size; /* size in bytes of the strings in the message or in the pipe */
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
/* Steps of the start of a command. struct agent_failure reports the step that has failed. */
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
/* Recipients of the signal that AGENT_SIGNAL requests. */
enum { AGENT_TO_PROCESS, AGENT_TO_GROUP, AGENT_TO_TREE };

/* A message in either direction. `value` is a pid for AGENT_STARTED, and an errno for
 * AGENT_REFUSED. */
struct agent_note {
    uint16_t kind;
    uint16_t to; /* recipient of the signal for AGENT_SIGNAL, otherwise 0 */
    int32_t value;
};

struct agent_failure {
    struct agent_note note; /* note.value is an errno */
    uint32_t step;
};

struct agent_end {
    struct agent_note note; /* note.value is the wait status of the command (waitpid(2)) */
    uint64_t user_us;
    uint64_t system_us;
    uint64_t rss_kib;
};

/* Kinds of struct agent_record. `usernsctl-agent --files` reads records from standard input, or
 * writes them to standard output. A list of entries (AGENT_SEND_ENTRIES) consists only of the first
 * record of each entry, and of AGENT_DONE. */
enum {
    /* start of a directory: its name follows, then records for its entries, then AGENT_LEAVE */
    AGENT_DIRECTORY = 1,
    /* start of a file: its name follows, then any number of AGENT_DATA records, then AGENT_LEAVE */
    AGENT_FILE,
    AGENT_LINK, /* a symbolic link: its name and its target follow */
    /* a FIFO, socket or device, or, with `mode` 0, an entry that was replaced or removed after it
     * was listed; not copied; its name follows */
    AGENT_OTHER,
    AGENT_DATA, /* a part of a file's contents follows */
    /* end of a directory or file; `mode` is 1 if the file has changed while it was read */
    AGENT_LEAVE,
    /* the copy has failed: `mode` is the errno, and the path of the failed file in the tree
     * follows */
    AGENT_STOPPED,
    AGENT_DONE,
};

/* The maximum number of nested directories in a copied tree. Sender and receiver keep a descriptor
 * of each nested directory open. */
#define AGENT_DEPTH_MAX 256
/* The maximum length of a file name in bytes, without the NUL (NAME_MAX). */
#define AGENT_NAME_MAX 255
/* The size in bytes of a buffer for a path or for a link's target, with its NUL (PATH_MAX). */
#define AGENT_PATH_SIZE 4096
/* The maximum size in bytes of the data in one record. */
#define AGENT_DATA_MAX (256 * 1024)

/* A record about a file or a part of its contents. The record for the root of the copied tree has
 * an empty name. */
struct agent_record {
    uint32_t kind;
    /* st_mode of the file, or the value that the comment on the record's kind describes */
    uint32_t mode;
    uint32_t size;        /* size in bytes of the text or data that follows the record */
    uint32_t nanoseconds; /* with `seconds`, the modification time */
    int64_t seconds;
    uint64_t length; /* st_size of the file; for a symbolic link, the length of the link's name,
                        after which the target follows */
} __attribute__((packed));

static_assert(sizeof(struct agent_record) == 32, "");
static_assert(sizeof(struct agent_hello) == 12, "");
static_assert(sizeof(struct agent_header) == 52, "");
static_assert(sizeof(struct agent_limit) == 20, "");
static_assert(sizeof(struct agent_note) == 8, "");
static_assert(sizeof(struct agent_failure) == 12, "");
static_assert(sizeof(struct agent_end) == 32, "");

#endif
