/*
 * What usernsctl-agent and its host say to each other (docs/agent.md). Every message is one of a
 * SOCK_SEQPACKET socket; numbers have the order of bytes that both of gVisor's machines have, and
 * no padding. A change that an older one of both would misread takes another version.
 */
#ifndef USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H
#define USERNSCTL_PROGRAMS_AGENT_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

#define AGENT_VERSION 1
#define AGENT_HELLO 0x544e4741U   /* "AGNT" */
#define AGENT_COMMAND 0x444e4d43U /* "CMND" */

/* In the agent's first message. */
#define AGENT_IS_FIRST 1 /* it is process 1 */

#define AGENT_IS_APART 2 /* no command can signal it without CAP_KILL */

/* In a command's. */
#define AGENT_NEW_SESSION 1
#define AGENT_TERMINAL 2
#define AGENT_WORDS_APART 4
#define AGENT_PROGRAM 8
#define AGENT_IDS 16
#define AGENT_NEW_GROUP 32
#define AGENT_CAPABILITIES 64
#define AGENT_ALL_FLAGS 127

/* No groups of its own, and no file mode creation mask. */
#define AGENT_UNCHANGED 0xffffffffU

/* The most bytes that a message has, and the words of a command: Linux takes 6 MiB at most, three
 * quarters of what it takes for a stack (execve(2)). */
#define AGENT_MESSAGE_MAX 65536
#define AGENT_WORDS_MAX (8U << 20)

/* Descriptors that come with a command; with AGENT_WORDS_APART there is one more. */
enum { AGENT_STDIN, AGENT_STDOUT, AGENT_STDERR, AGENT_SOCKET, AGENT_WORDS, AGENT_FDS };

struct agent_hello {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint32_t pid;
};

/* Followed by the groups, a uint32_t each, the limits, and the words. */
struct agent_header {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint32_t uid;
    uint32_t gid;
    uint32_t groups; /* how many, or AGENT_UNCHANGED */
    uint32_t limits;
    uint32_t args;
    uint32_t env;
    uint32_t size; /* of the words, wherever they are */
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

/* From the agent. */
enum { AGENT_STARTED = 1, AGENT_FAILED, AGENT_ENDED, AGENT_REFUSED };
/* What failed. */
enum {
    AGENT_STEP_WORDS = 1,
    AGENT_STEP_CWD,
    AGENT_STEP_IDS,
    AGENT_STEP_LIMITS,
    AGENT_STEP_EXEC,
    AGENT_STEP_FORK,
    AGENT_STEP_TERMINAL,
    AGENT_STEP_LOOKUP,
};
/* From the host. */
enum { AGENT_SIGNAL = 1, AGENT_WINDOW };
/* To whom a signal goes. */
enum { AGENT_TO_PROCESS, AGENT_TO_GROUP, AGENT_TO_TREE };

/* Started and refused are this alone: with a process id, and an errno. The host's are, too. */
struct agent_note {
    uint16_t kind;
    uint16_t to; /* else 0 */
    int32_t value;
};

struct agent_failure {
    struct agent_note note; /* with an errno */
    uint32_t step;
};

struct agent_end {
    struct agent_note note; /* with a status as waitpid(2) has it */
    uint64_t user_us;
    uint64_t system_us;
    uint64_t rss_kib;
};

static_assert(sizeof(struct agent_hello) == 12, "");
static_assert(sizeof(struct agent_header) == 52, "");
static_assert(sizeof(struct agent_limit) == 20, "");
static_assert(sizeof(struct agent_note) == 8, "");
static_assert(sizeof(struct agent_failure) == 12, "");
static_assert(sizeof(struct agent_end) == 32, "");

#endif
