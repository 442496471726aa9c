/* Tests of reading the exit status of the command from runsc's debug log. */
#include "check.h"
#include "explain/explain.h"

#include <unistd.h>

#include <sys/wait.h>

#define LINE "I1125 01:43:37.998166   66184 main.go:222] "
#define WAITED                                                                                     \
    "W1125 01:43:37.998100   66184 sandbox.go:1224] Wait on container \"c\" failed: connecting: "  \
    "connection refused. Will try waiting on the sandbox process instead.\n"

/* Returns the wait status in a debug log with the content `text`, or -1 if it contains none. */
static int status_of_log(const char *text)
{
    char path[] = "/tmp/test_runsc_files.XXXXXX";
    int status = 0, fd = mkstemp(path);
    CHECK(fd >= 0);
    CHECK_INT(write(fd, text, strlen(text)), (long long)strlen(text));
    close(fd);
    bool has_ended = un_runsc_has_ended(path, &status);
    unlink(path);
    return has_ended ? status : -1;
}

static void the_last_line_has_the_status(void)
{
    CHECK_INT(status_of_log(LINE "Exiting with status: 0\n"), 0);
    CHECK_INT(status_of_log(LINE "something\n" LINE "Exiting with status: 768"), 3 << 8);
    CHECK_INT(status_of_log(LINE "Exiting with status: 36608\n"), 143 << 8);
    CHECK_INT(status_of_log(LINE "Exiting with status: 15\n"), 15);
}

static void other_last_lines_are_ignored(void)
{
    CHECK_INT(status_of_log(""), -1);
    CHECK_INT(status_of_log(LINE "Exiting with status: 0\n" LINE "something\n"), -1);
    CHECK_INT(status_of_log("Exiting with status: 0\n"), -1);
    CHECK_INT(status_of_log(LINE "Exiting with status: 0 \n"), -1);
    CHECK_INT(status_of_log(LINE "Exiting with status: -1\n"), -1);
}

static void a_status_that_is_too_large_is_ignored(void)
{
    CHECK_INT(status_of_log(LINE "Exiting with status: 9999999999\n"), -1);
}

static void the_status_of_the_sandbox_process_is_128_and_the_signal(void)
{
    CHECK_INT(status_of_log(WAITED LINE "Exiting with status: 36608\n"), 15);
    CHECK_INT(status_of_log(WAITED LINE "Destroying\n" LINE "Exiting with status: 35072\n"), 9);
    CHECK_INT(status_of_log(WAITED LINE "Exiting with status: 768\n"), 3 << 8);
    CHECK_INT(status_of_log(WAITED LINE "Exiting with status: 32768\n"), 128 << 8);
}

static void a_killed_sandbox_process_has_no_status_of_the_command(void)
{
    CHECK_INT(status_of_log(WAITED LINE "Exiting with status: 31\n"), -1);
    CHECK_INT(status_of_log(WAITED LINE "Destroying\n" LINE "Exiting with status: 9\n"), -1);
}

int main(void)
{
    the_last_line_has_the_status();
    other_last_lines_are_ignored();
    a_status_that_is_too_large_is_ignored();
    the_status_of_the_sandbox_process_is_128_and_the_signal();
    a_killed_sandbox_process_has_no_status_of_the_command();
}
