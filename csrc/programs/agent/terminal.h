/* A terminal of the sandbox's own, between the command and the host's descriptors. */
#ifndef USERNSCTL_PROGRAMS_AGENT_TERMINAL_H
#define USERNSCTL_PROGRAMS_AGENT_TERMINAL_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What is on its way in one direction. One piece is what a pipe takes without blocking once poll(2)
 * says that it takes something (PIPE_BUF, pipe(7)). */
struct agent_flow {
    size_t from;
    size_t to;
    char bytes[4096];
};

struct agent_terminal {
    int master; /* -1: there is none */
    int input;  /* the host's, not ours to close; -1: it has ended */
    int output;
    bool line_begun; /* what was typed last did not end a line */
    int ends;        /* so often the command is still to be told that there is no more input */
    struct agent_flow in;
    struct agent_flow out;
};

/* Makes one: its other side, or -1 with errno. */
int agent_terminal_open(struct agent_terminal *terminal, int input, int output, uint16_t rows,
                        uint16_t columns);
void agent_terminal_resize(const struct agent_terminal *terminal, uint16_t rows, uint16_t columns);

/* SIGWINCH to who is in its foreground, or to `group`: gVisor's kernel does not send it. */
void agent_terminal_tell_size(const struct agent_terminal *terminal, pid_t group);

#define AGENT_TERMINAL_POLLS 3
/* What is to be waited for, in AGENT_TERMINAL_POLLS entries; a descriptor may be -1. */
void agent_terminal_polls(const struct agent_terminal *terminal, struct pollfd *polls);
/* Copies what can be copied without waiting, as poll(2) said. */
void agent_terminal_copy(struct agent_terminal *terminal, const struct pollfd *polls);
/* Whether all that the command has written is with the host: to be asked when nobody has the other
 * side any more. */
bool agent_terminal_drained(struct agent_terminal *terminal);
/* Hangs up. */
void agent_terminal_close(struct agent_terminal *terminal);

#endif
