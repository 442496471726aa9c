/*
 * Limiting the output of the sandbox (--max-output) by a process, the pump, which copies the
 * output to the standard output and error of the watcher.
 *
 * Standard output and standard error are limited separately. The pump copies the first half of the
 * limit immediately. Of the remaining output, the pump keeps the last bytes, up to the other half
 * of the limit, in memory, and writes these bytes when the sandbox has closed its end of the pipe.
 * So the pump never needs more memory than the limit, and a slow reader can delay the sandbox only
 * during the first half.
 *
 * The pump is a separate process, because the watcher must not wait for a reader. The watcher reads
 * the numbers of bytes from shared memory, and spares the pump when it kills the sandbox.
 */
#include "base/base.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <poll.h>
#include <sys/mman.h>

#define KILL ",kill"
#define READ_BYTES 65536
/* Timeout in ms for writing the rest of the output after the watcher has killed the sandbox, or
 * after a signal that came too late for the command. */
#define GIVEN_UP_MS 5000

/* Standard output or standard error of the sandbox, and the descriptor to which it is copied. */
struct output {
    int from; /* read end of the pipe, or -1 after end of file */
    /* 1 (standard output) or 2 (standard error), or -1 after the reader has closed its end */
    int to;
    /* number of bytes that may still be copied immediately (first half of the limit) */
    uint64_t left;
    char *tail; /* ring buffer with tail_size bytes */
    uint64_t tail_size;
    uint64_t tail_total; /* total number of bytes ever put into the ring buffer */
    uint64_t *total;     /* number of bytes that the sandbox has written; in shared memory */
};

bool pump_parse(const char *text, struct pump *pump)
{
    const char *end = un_number_read(text, MAX_OUTPUT_MAX, &pump->limit);
    pump->kills = end && !strcmp(end, KILL);
    return end && pump->limit && (!*end || pump->kills);
}

/* Writes all bytes, even to a descriptor that another process has made nonblocking. Returns false
 * after an error, for example if the reader has closed its end. */
static bool write_all(int to, const char *data, uint64_t size)
{
    struct pollfd room = {.fd = to, .events = POLLOUT};
    while (size) {
        ssize_t written = write(to, data, (size_t)size);
        if (written < 0 && errno == EAGAIN)
            poll(&room, 1, -1);
        else if (written < 0)
            return false;
        data += written > 0 ? written : 0;
        size -= written > 0 ? (uint64_t)written : 0;
    }
    return true;
}

/* Closes the read end of the pipe, so that the sandbox's writes fail. Without a pump, they would
 * also fail once the reader has closed its end. */
static void give_up(struct output *output)
{
    output->to = -1;
    un_close_quietly(output->from);
    output->from = -1;
}

static void write_out(struct output *output, const char *data, uint64_t size)
{
    if (output->to >= 0 && !write_all(output->to, data, size))
        give_up(output);
}

static void keep(struct output *output, const char *data, uint64_t size)
{
    /* Skip the bytes that the rest of the data would overwrite in the ring buffer; only count
     * them. */
    uint64_t skipped = size > output->tail_size ? size - output->tail_size : 0;
    output->tail_total += skipped;
    data += skipped;
    size -= skipped;
    while (size) {
        uint64_t at = output->tail_total % output->tail_size;
        uint64_t part = output->tail_size - at < size ? output->tail_size - at : size;
        memcpy(output->tail + at, data, part);
        output->tail_total += part;
        data += part;
        size -= part;
    }
}

/* Writes the contents of the ring buffer, which are the end of the output. */
static void write_tail(struct output *output)
{
    uint64_t at = output->tail_total % output->tail_size;
    if (output->tail_total > output->tail_size)
        write_out(output, output->tail + at, output->tail_size - at);
    write_out(output, output->tail, at);
    /* If the ring buffer was filled exactly once, `at` is 0, and the calls above have written
     * nothing. */
    if (output->tail_total == output->tail_size)
        write_out(output, output->tail, output->tail_size);
}

static void copy_some(struct output *output)
{
    static char data[READ_BYTES];
    ssize_t got = read(output->from, data, sizeof data);
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got <= 0) {
        close(output->from);
        output->from = -1;
        write_tail(output);
        return;
    }
    uint64_t first = (uint64_t)got < output->left ? (uint64_t)got : output->left;
    *output->total += (uint64_t)got;
    output->left -= first;
    write_out(output, data, first);
    keep(output, data + first, (uint64_t)got - first);
}

/* Wakes the watcher by SIGCHLD, once, if the limit is exceeded and the watcher must then kill the
 * sandbox. The watcher itself reads the numbers of bytes. */
static void report_overflow(const struct pump *pump, bool *is_reported)
{
    if (pump->kills && !*is_reported &&
        (pump->total[0] > pump->limit || pump->total[1] > pump->limit)) {
        *is_reported = true;
        kill(getppid(), SIGCHLD);
    }
}

static _Noreturn void become_pump(const struct pump *pump, struct output outputs[2], int parent)
{
    struct un_error err;
    bool is_reported = false;
    if (un_die_with_parent(SIGKILL, parent, &err))
        _exit(SANDBOX_FAILED);
    while (outputs[0].from >= 0 || outputs[1].from >= 0) {
        struct pollfd fds[4];
        for (int i = 0; i < 2; i++) {
            fds[i] = (struct pollfd){.fd = outputs[i].from, .events = POLLIN};
            /* Request no events, so that poll(2) reports only that the reader has closed its
             * end. */
            fds[i + 2] = (struct pollfd){.fd = outputs[i].from < 0 ? -1 : outputs[i].to};
        }
        if (poll(fds, 4, -1) < 0 && errno != EINTR)
            _exit(SANDBOX_FAILED);
        for (int i = 0; i < 2; i++)
            if (fds[i + 2].revents)
                give_up(&outputs[i]);
            else if (fds[i].revents)
                copy_some(&outputs[i]);
        report_overflow(pump, &is_reported);
    }
    _exit(0);
}

static void *map(uint64_t size, int flags)
{
    void *memory = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Creates the pipes, the ring buffers and the shared memory. Returns 0, or -1 with errno set. */
static int prepare_outputs(struct pump *pump, struct output outputs[2])
{
    pump->total = map(2 * sizeof *pump->total, MAP_SHARED);
    for (int i = 0; i < 2; i++) {
        int ends[2];
        uint64_t tail_size = pump->limit - pump->limit / 2;
        if (!pump->total || pipe2(ends, O_CLOEXEC))
            return -1;
        pump->input[i] = ends[1];
        outputs[i] = (struct output){
            .from = ends[0],
            .to = i + 1,
            .left = pump->limit / 2,
            .tail = map(tail_size, MAP_PRIVATE | MAP_NORESERVE),
            .tail_size = tail_size,
            .total = &pump->total[i],
        };
        if (!outputs[i].tail)
            return -1;
    }
    return 0;
}

int pump_start(struct pump *pump, struct un_error *err)
{
    struct output outputs[2] = {{.from = -1}, {.from = -1}};
    un_auto_close int self = un_pidfd_open(getpid());
    if (self < 0 || prepare_outputs(pump, outputs))
        return un_fail_errno(err, UN_STEP_STDIO, "can't open the pipes for --max-output");
    /* Block signals in the pump, because handling them is up to the watcher, and because a write to
     * a closed pipe must fail instead of killing the pump by SIGPIPE. */
    uint64_t mask = un_block_signals();
    pump->pid = un_fork();
    if (pump->pid == 0) {
        un_close_each(pump->input, 2);
        become_pump(pump, outputs, self);
    }
    int errnum = errno;
    un_set_signals(mask);
    for (int i = 0; i < 2; i++)
        close(outputs[i].from);
    pump->pidfd = pump->pid < 0 ? -1 : un_pidfd_open(pump->pid);
    if (pump->pidfd >= 0)
        return 0;
    errno = pump->pid < 0 ? errnum : errno;
    return un_fail_errno(err, UN_STEP_STDIO, "fork");
}

int pump_join(const struct pump *pump)
{
    for (int i = 0; i < 2 && pump->limit; i++)
        /* gcc's analyzer reports a leak, because it assumes that dup2(2) creates a new descriptor.
         * NOLINTNEXTLINE(analyzer-fd-leak) */
        if (dup2(pump->input[i], i + 1) < 0)
            return -1;
    return 0;
}

void pump_wait(struct pump *pump, bool is_given_up)
{
    siginfo_t ignored;
    if (!pump->limit)
        return;
    un_close_each(pump->input, 2);
    un_auto_close int signals = open_kept_signals();
    struct pollfd fds[] = {{.fd = pump->pidfd, .events = POLLIN},
                           {.fd = signals, .events = POLLIN}};
    while (poll(fds, 2, is_given_up ? GIVEN_UP_MS : -1) < 0 && errno == EINTR)
        continue;
    un_kill_and_reap(pump->pidfd, &ignored);
    close(pump->pidfd);
}

uint64_t pump_truncated(const struct pump *pump, int stream)
{
    /* pump->total is NULL if the output is unlimited, or if the start failed before
     * pump_start(). */
    bool is_over = pump->total && pump->total[stream] > pump->limit;
    return is_over ? pump->total[stream] - pump->limit : 0;
}

bool pump_is_over(const struct pump *pump, struct un_end *end)
{
    if (!pump->total || !pump->kills)
        return false;
    uint64_t most = pump->total[0] > pump->total[1] ? pump->total[0] : pump->total[1];
    if (most <= pump->limit)
        return false;
    *end = (struct un_end){.reason = "output-limit", .limit = pump->limit, .used = most};
    snprintf(end->text, sizeof end->text,
             "the sandbox was ended: it wrote %" PRIu64 " bytes, and its limit is %" PRIu64,
             end->used, end->limit);
    return true;
}

void pump_report(const struct pump *pump)
{
    static const char *const names[] = {"standard output", "standard error"};
    char text[160];
    for (int i = 0; i < 2; i++) {
        if (!pump_truncated(pump, i))
            continue;
        snprintf(text, sizeof text,
                 "--max-output dropped %" PRIu64 " bytes of %s after the first %" PRIu64,
                 pump_truncated(pump, i), names[i], pump->limit / 2);
        report_message((struct report){.program = "usernsctl", .level = "notice", .message = text});
    }
}
