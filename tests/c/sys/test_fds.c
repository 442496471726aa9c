/* Tests of which descriptors a command inherits, with close_range(2) and without it. */
#include "check.h"
#include "forked.h"
#include "seccomp.h"
#include "sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct un_error err;

enum { HIGH = 700, HIGHEST = 1000 };

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static bool is_passed_on(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags >= 0 && !(flags & FD_CLOEXEC);
}

static void open_at(int fd)
{
    int opened = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(opened >= 0);
    if (opened != fd) {
        CHECK_INT(dup3(opened, fd, O_CLOEXEC), fd);
        close(opened);
    }
}

/* Opens the descriptors 3 to 8 and two with higher numbers, all with close-on-exec. */
static void open_some(void)
{
    for (int fd = 3; fd <= 8; fd++)
        open_at(fd);
    open_at(HIGH);
    open_at(HIGHEST);
}

static int all_others_are_closed(void *arg)
{
    static const int keep[] = {0, 4, 5, 8, HIGH};
    (void)arg;
    open_some();
    CHECK_OK(un_close_fds(keep, COUNT(keep), &err), &err);
    for (int fd = 0; fd <= HIGHEST; fd++) {
        bool kept = fd < 3 || fd == 4 || fd == 5 || fd == 8 || fd == HIGH;
        CHECK_INT(is_open(fd), kept);
        CHECK_INT(is_passed_on(fd), kept);
    }
    return 0;
}

static void all_are_closed_if_none_is_kept(void)
{
    open_some();
    CHECK_OK(un_close_fds(NULL, 0, &err), &err);
    for (int fd = 0; fd <= HIGHEST; fd++)
        CHECK_INT(is_open(fd), fd < 3);
}

static void a_kept_descriptor_must_be_open(void)
{
    static const int keep[] = {6, 9};
    open_some();
    CHECK_INT(un_close_fds(keep, COUNT(keep), &err), -1);
    CHECK_INT(err.step, UN_STEP_FDS);
    CHECK_INT(err.errnum, EBADF);
    CHECK_HAS(err.detail, "9");
}

/* Makes close_range(2) fail with ENOSYS, as it does before Linux 5.9 and with some seccomp
 * filters. */
static void take_close_range_away(void)
{
    refuse_call(SYS_close_range, ENOSYS);
    CHECK_INT(syscall(SYS_close_range, 3000, 3000, 0), -1);
    CHECK_INT(errno, ENOSYS);
}

/* Checks un_close_fds() without close_range(2). The function must close descriptors above
 * RLIMIT_NOFILE if the limit was lowered, and must not call close(2) for each number if the limit
 * is huge. */
static void the_fallback_closes_what_is_open(void)
{
    struct rlimit limit;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    open_some();
    limit.rlim_cur = limit.rlim_max = HIGH - 100;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
    take_close_range_away();
    CHECK_OK(un_close_fds(NULL, 0, &err), &err);
    for (int fd = 0; fd <= HIGHEST; fd++)
        CHECK_INT(is_open(fd), fd < 3);
}

static int the_fallback_keeps_the_listed_descriptors(void *arg)
{
    take_close_range_away();
    return all_others_are_closed(arg);
}

/* Replaces the descriptors 0 to 2 by read ends of pipes, each of which contains the number of its
 * descriptor. */
static void number_the_standard_descriptors(void)
{
    for (int fd = 0; fd < 3; fd++) {
        int ends[2];
        char number = (char)('0' + fd);
        CHECK_INT(pipe2(ends, O_CLOEXEC), 0);
        CHECK_INT(write(ends[1], &number, 1), 1);
        CHECK_INT(dup3(ends[0], fd + 100, O_CLOEXEC), fd + 100);
        close(ends[0]);
        close(ends[1]);
    }
    for (int fd = 0; fd < 3; fd++) {
        CHECK_INT(dup3(fd + 100, fd, O_CLOEXEC), fd);
        close(fd + 100);
    }
}

struct placing {
    int stdio[3];
    char want[3]; /* the expected content of the pipe at each of the descriptors 0 to 2 */
};

/* Checks where un_place_stdio() puts the descriptors. Reports a failure only by its return value,
 * because CHECK prints to standard error, which is one of these descriptors. */
static int stdio_is_placed(void *arg)
{
    const struct placing *placing = arg;
    number_the_standard_descriptors();
    if (un_place_stdio(placing->stdio, &err))
        return 1;
    for (int fd = 0; fd < 3; fd++) {
        bool moved = placing->stdio[fd] >= 0;
        if (moved && !is_passed_on(fd))
            return 2;
    }
    for (int fd = 0; fd < 3; fd++) {
        char got = 0;
        bool first = true;
        for (int other = 0; other < fd; other++)
            first = first && placing->want[other] != placing->want[fd];
        /* Each pipe contains a single byte: the number of the descriptor that first referred to it.
         * If several descriptors refer to the same pipe, only the lowest of them reads the byte. */
        if (first && (read(fd, &got, 1) != 1 || got != placing->want[fd]))
            return 3;
    }
    return 0;
}

static void stdio_is_placed_however_it_is_crossed(void)
{
    static struct placing cases[] = {
        {{-1, -1, -1}, {'0', '1', '2'}}, {{0, 1, 2}, {'0', '1', '2'}},
        {{1, 0, 2}, {'1', '0', '2'}},    {{1, 2, 0}, {'1', '2', '0'}},
        {{2, 0, 1}, {'2', '0', '1'}},    {{2, 1, 0}, {'2', '1', '0'}},
        {{-1, 0, -1}, {'0', '0', '2'}},  {{1, 1, 1}, {'1', '1', '1'}},
        {{-1, 2, 2}, {'0', '2', '2'}},   {{2, -1, 0}, {'2', '1', '0'}},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        CHECK_INT(forked(stdio_is_placed, &cases[i]), 0);
}

static void a_placed_descriptor_must_be_open(void)
{
    CHECK_INT(un_place_stdio((const int[3]){999, -1, -1}, &err), -1);
    CHECK_INT(err.step, UN_STEP_STDIO);
    CHECK_INT(err.errnum, EBADF);
}

static void the_table_is_grown(void)
{
    un_make_fd_room();
    CHECK(is_passed_on(511));
    CHECK(fcntl(511, F_GETFL) & O_PATH);
    char byte;
    CHECK_INT(read(511, &byte, 1), -1);
    CHECK_INT(errno, EBADF);
    /* un_make_fd_room() leaves no other descriptor open. */
    for (int fd = 3; fd < 511; fd++)
        CHECK(!is_open(fd));
}

static void the_table_is_not_grown_above_the_limit(void)
{
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &(struct rlimit){100, 100}), 0);
    un_make_fd_room();
    for (int fd = 3; fd < 100; fd++)
        CHECK(!is_open(fd));
}

int main(void)
{
    CHECK_OK(un_close_fds(NULL, 0, &err), &err);
    check_in_child(the_table_is_grown);
    check_in_child(the_table_is_not_grown_above_the_limit);
    CHECK_INT(forked(all_others_are_closed, NULL), 0);
    check_in_child(all_are_closed_if_none_is_kept);
    check_in_child(a_kept_descriptor_must_be_open);
    check_in_child(the_fallback_closes_what_is_open);
    CHECK_INT(forked(the_fallback_keeps_the_listed_descriptors, NULL), 0);
    stdio_is_placed_however_it_is_crossed();
    check_in_child(a_placed_descriptor_must_be_open);
}
