#include "base/base.h"
#include "programs/agent/agent.h"

#include <asm/termbits.h>
#include <signal.h>
#include <sys/ioctl.h>

/* Opens the slave side of a pseudoterminal. Returns a descriptor, or -1 with errno set. */
static int open_other_side(int master)
{
    char path[32] = "/dev/pts/";
    int locked = 0;
    unsigned number;
    if (ioctl(master, TIOCSPTLCK, &locked) || ioctl(master, TIOCGPTN, &number))
        return -1;
    un_number_write(path + strlen(path), number);
    return open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

int agent_terminal_open(struct agent_terminal *terminal, int input, int output, uint16_t rows,
                        uint16_t columns)
{
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0)
        return -1;
    int other = open_other_side(master);
    if (other < 0) {
        int errnum = errno;
        close(master);
        errno = errnum;
        return -1;
    }
    terminal->master = master;
    terminal->input = input;
    terminal->output = output;
    agent_terminal_resize(terminal, rows, columns);
    return other;
}

void agent_terminal_resize(const struct agent_terminal *terminal, uint16_t rows, uint16_t columns)
{
    const struct winsize size = {.ws_row = rows, .ws_col = columns};
    if (terminal->master >= 0 && rows && columns)
        ioctl(terminal->master, TIOCSWINSZ, &size);
}

void agent_terminal_signal_resize(const struct agent_terminal *terminal, pid_t group)
{
    pid_t foreground = 0;
    if (terminal->master < 0)
        return;
    if (ioctl(terminal->master, TIOCGPGRP, &foreground) || foreground <= 0)
        foreground = group;
    if (foreground > 0)
        kill(-foreground, SIGWINCH);
}

static bool is_empty(const struct agent_flow *flow)
{
    return flow->from == flow->to;
}

void agent_terminal_polls(const struct agent_terminal *terminal, struct pollfd *polls)
{
    bool can_read = is_empty(&terminal->out), has_input = !is_empty(&terminal->in);
    int wanted = (can_read ? POLLIN : 0) | (has_input || terminal->ends ? POLLOUT : 0);
    bool reads = terminal->master >= 0 && !has_input && !terminal->ends;
    polls[0] = (struct pollfd){.fd = reads ? terminal->input : -1, .events = POLLIN};
    polls[1] = (struct pollfd){.fd = wanted ? terminal->master : -1, .events = (short)wanted};
    polls[2] = (struct pollfd){.fd = can_read ? -1 : terminal->output, .events = POLLOUT};
}

/* Reads from `fd` into an empty buffer. Returns false at end of file or after an error. */
static bool fill(struct agent_flow *flow, int fd)
{
    ssize_t size = read(fd, flow->bytes, sizeof flow->bytes);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    flow->from = 0;
    flow->to = size > 0 ? (size_t)size : 0;
    return size > 0;
}

/* Writes the bytes of the buffer to `fd`, or as many as possible without blocking. Returns false
 * after an error, for example if the reader has closed its end. */
static bool drain(struct agent_flow *flow, int fd)
{
    ssize_t size = write(fd, flow->bytes + flow->from, flow->to - flow->from);
    if (size < 0)
        return errno == EAGAIN || errno == EINTR;
    flow->from += (size_t)size;
    return true;
}

/* Writes VEOF (Ctrl-D) to the terminal, as if a user typed it. At the beginning of a line, read(2)
 * then returns 0, which means end of file. In the middle of a line, VEOF only makes read(2) return
 * the pending bytes, so a second VEOF is needed (termios(3)). Writes nothing unless the terminal is
 * in canonical mode. */
static void type_end(struct agent_terminal *terminal)
{
    struct termios mode;
    if (ioctl(terminal->master, TCGETS, &mode) || !(mode.c_lflag & ICANON)) {
        terminal->ends = 0;
        return;
    }
    if (write(terminal->master, &mode.c_cc[VEOF], 1) >= 0 || errno != EAGAIN)
        terminal->ends--;
}

static void copy_in(struct agent_terminal *terminal)
{
    struct agent_flow *in = &terminal->in;
    if (is_empty(in)) {
        if (terminal->ends)
            type_end(terminal);
        return;
    }
    terminal->is_mid_line = in->bytes[in->to - 1] != '\n';
    if (!drain(in, terminal->master))
        in->from = in->to;
}

static void read_input(struct agent_terminal *terminal)
{
    if (fill(&terminal->in, terminal->input))
        return;
    terminal->input = -1;
    terminal->ends = terminal->is_mid_line ? 2 : 1;
}

void agent_terminal_copy(struct agent_terminal *terminal, const struct pollfd *polls)
{
    if (polls[0].fd >= 0 && polls[0].revents)
        read_input(terminal);
    if (polls[1].fd >= 0 && polls[1].revents & POLLOUT)
        copy_in(terminal);
    if (polls[1].fd >= 0 && polls[1].revents & (POLLIN | POLLHUP | POLLERR) &&
        is_empty(&terminal->out) && !fill(&terminal->out, terminal->master))
        agent_terminal_close(terminal);
    /* Discard output that the host no longer reads, so that the command does not block on it. */
    if (polls[2].fd >= 0 && polls[2].revents && !drain(&terminal->out, terminal->output))
        terminal->out.from = terminal->out.to;
}

bool agent_terminal_drained(struct agent_terminal *terminal)
{
    if (!is_empty(&terminal->out))
        return false;
    if (terminal->master >= 0 && !fill(&terminal->out, terminal->master))
        agent_terminal_close(terminal);
    return is_empty(&terminal->out);
}

void agent_terminal_close(struct agent_terminal *terminal)
{
    if (terminal->master >= 0)
        close(terminal->master);
    terminal->master = -1;
}
