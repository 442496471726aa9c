/*
 * usernsctl-verify, the first program of a sandbox, checks that the kernel is gVisor's, and then
 * executes the payload.
 *
 * usernsctl-verify [--log=json] [--health] [--ignore=MASK] [--as UID GID] PAYLOAD [ARGUMENT...]
 *
 * usernsctl-verify --signal NUMBER
 *
 * With --ignore, the payload ignores the signals whose bits are set in the decimal number MASK,
 * until it sets handlers. Bit N - 1 stands for signal N.
 *
 * With --as, the payload has the ids UID and GID, in a new user namespace of gVisor that maps them
 * to the ids of this process. The option is needed if only one id of the host is mapped, because
 * runsc requires that id to be 0.
 *
 * With --log=json, messages have the JSON format of report.c.
 *
 * With --health, the payload is killed after UN_HEALTH_SECONDS. If PAYLOAD is missing, the program
 * exits with status 0.
 *
 * With --signal, the program sends a signal to PID 1 of the sandbox. usernsctl-watch sends
 * real-time signals in this way, because `runsc kill` does not support them. As PID 1, the program
 * takes --signal for the name of the payload.
 *
 * The program works in any root filesystem and as any user. The program checks the kernel by system
 * calls only, so that neither a mount on /proc nor any file can fake the result. Each page that
 * gVisor must load delays the payload, so the program uses no libc and has only two pages.
 */
#include "base/base.h"
#include "base/freestanding.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"

#include <linux/prctl.h>
#include <linux/sched.h>

#define NOT_PROVEN 125
#define NOT_EXECUTABLE 126
#define NOT_FOUND 127
#define SIGNAL_MAX 64
/* Size in bytes of the buffer for the line of an id map, "ID 0 1". */
#define MAP_MAX 32

static long call(long number, long a, long b, long c)
{
    return un_raw_call(number, a, b, c, 0, 0, 0);
}

static size_t text_length(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

/* A line of a message for standard error. */
struct line {
    char text[PATH_MAX + 256];
    size_t length;
};

/* Appends a text to the line. Truncates a line that becomes too long. */
static void line_add(struct line *line, const char *text)
{
    for (; *text && line->length < sizeof line->text - 64; text++)
        line->text[line->length++] = *text;
}

/* Appends a text to a JSON string in the line: escapes quotes and backslashes, and replaces
 * unprintable characters by "?". */
static void line_add_escaped(struct line *line, const char *text)
{
    char character[3] = "\\";
    for (; *text && line->length + 2 < PATH_MAX; text++) {
        bool is_special = *text == '"' || *text == '\\';
        character[is_special] = *text >= ' ' && *text <= '~' ? *text : '?';
        character[is_special + 1] = '\0';
        line_add(line, character);
        *character = '\\';
    }
}

static void line_add_number(struct line *line, long number, int digits)
{
    char text[8];
    text[digits] = '\0';
    while (digits--) {
        text[digits] = (char)('0' + number % 10);
        number /= 10;
    }
    line_add(line, text);
}

/* Appends the current time to the line, as in 2026-01-31T12:00:00.000Z. Years are counted from 1
 * March of the year 0, so that a leap day is the last day of such a year. */
static void line_add_time(struct line *line)
{
    long now[2] = {0, 0};
    call(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, (long)now, 0);
    long days = now[0] / 86400 + 719468, second = now[0] % 86400;
    long era = days / 146097, of_era = days % 146097;
    long year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    long of_year = of_era - (365 * year + year / 4 - year / 100);
    long month = (5 * of_year + 2) / 153, day = of_year - (153 * month + 2) / 5 + 1;
    month = month < 10 ? month + 3 : month - 9;
    const struct {
        long number;
        int digits;
        const char *end;
    } parts[] = {{era * 400 + year + (month <= 2), 4, "-"},
                 {month, 2, "-"},
                 {day, 2, "T"},
                 {second / 3600, 2, ":"},
                 {second / 60 % 60, 2, ":"},
                 {second % 60, 2, "."},
                 {now[1] / 1000000, 3, "Z"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        line_add_number(line, parts[i].number, parts[i].digits);
        line_add(line, parts[i].end);
    }
}

static int write_complaint(bool in_json, int status, const char *command, const char *why)
{
    struct line line;
    line.length = 0;
    if (in_json) {
        line_add(&line, "{\"time\": \"");
        line_add_time(&line);
        line_add(&line, "\", \"level\": \"error\", \"program\": \"usernsctl\", \"message\": \"");
        line_add_escaped(&line, command);
    } else {
        line_add(&line, "usernsctl: ");
        line_add(&line, command);
    }
    line.length = line.length < PATH_MAX ? line.length : PATH_MAX;
    line_add(&line, ": ");
    line_add(&line, why);
    line_add(&line, in_json ? "\"}\n" : "\n");
    call(__NR_write, STDERR_FILENO, (long)line.text, (long)line.length);
    return status;
}

static bool file_exists(const char *path)
{
    return call(__NR_faccessat, AT_FDCWD, (long)path, 0) == 0;
}

static long exec_payload(const char *path, char **argv, char **envp)
{
    return -call(__NR_execve, (long)path, (long)argv, (long)envp);
}

static int explain_exec_failure(bool in_json, const char *path, long errnum)
{
    if ((errnum == ENOENT || errnum == ENOTDIR) && !file_exists(path))
        return write_complaint(in_json, NOT_FOUND, path, "not found in the sandbox");
    if (errnum == ENOENT)
        return write_complaint(in_json, NOT_EXECUTABLE, path,
                               "the interpreter is not in the sandbox");
    if (errnum == EACCES)
        return write_complaint(in_json, NOT_EXECUTABLE, path, "not executable");
    if (errnum == ENOEXEC)
        return write_complaint(in_json, NOT_EXECUTABLE, path,
                               "neither a program nor a script that begins with #!");
    return write_complaint(in_json, NOT_EXECUTABLE, path, "gVisor's kernel can't execute the file");
}

/* Searches the directories in `at`, the value of PATH, for the payload, and executes it. Returns
 * only on failure, with the exit status. */
static int search_payload(bool in_json, char **argv, char **envp, const char *at)
{
    char path[PATH_MAX];
    bool denied = false;
    while (un_next_candidate(&at, argv[0], path)) {
        long errnum = exec_payload(path, argv, envp);
        /* Check that the file exists, because EACCES can also mean that search permission for a
         * directory is missing. */
        denied = denied || (errnum == EACCES && file_exists(path));
        if (errnum != EACCES && file_exists(path))
            return explain_exec_failure(in_json, path, errnum);
    }
    return denied ? explain_exec_failure(in_json, argv[0], EACCES)
                  : write_complaint(in_json, NOT_FOUND, argv[0],
                                    "not found along PATH in the sandbox");
}

/* Sets a timer, which survives execve(2), so that SIGALRM kills the hanging payload of a health
 * check. */
static void limit_time(void)
{
    const long timer[4] = {0, 0, UN_HEALTH_SECONDS, 0}; /* struct itimerval */
    call(__NR_setitimer, 0 /* ITIMER_REAL */, (long)timer, 0);
}

static bool is_option(const char *word, const char *option)
{
    size_t length = text_length(option);
    return un_begins(word, option) && !word[length];
}

/* Writes a text to an existing file. Returns whether that succeeded. */
static bool write_file(const char *path, const char *text)
{
    long fd = call(__NR_openat, AT_FDCWD, (long)path, O_WRONLY | O_CLOEXEC);
    long length = (long)text_length(text);
    bool written = fd >= 0 && call(__NR_write, fd, (long)text, length) == length;
    if (fd >= 0)
        call(__NR_close, fd, 0, 0);
    return written;
}

/* Maps `id` to id 0 of the parent namespace, by writing a line to `path`, a uid_map or gid_map.
 * Returns whether that succeeded. */
static bool write_map(const char *path, const char *id)
{
    static const char end[] = " 0 1";
    char text[MAP_MAX];
    size_t length = text_length(id);
    if (length + sizeof end > sizeof text)
        return false;
    for (size_t i = 0; i < length; i++)
        text[i] = id[i];
    for (size_t i = 0; i < sizeof end; i++)
        text[length + i] = end[i];
    return write_file(path, text);
}

static bool is_id(const char *text, long id)
{
    uint64_t number;
    const char *end = un_number_read(text, UINT32_MAX, &number);
    return end && !*end && (long)number == id;
}

/* Empties the capability bounding set, so that uid 0 of the new user namespace gains no
 * capabilities by execve(2). */
static void drop_bounding_set(void)
{
    for (long cap = 0; !call(__NR_prctl, PR_CAPBSET_DROP, cap, 0); cap++)
        continue;
}

/* Enters a new user namespace that maps the decimal numbers `uid` and `gid` to the ids of this
 * process. gVisor needs no /proc/self/setgroups, and has none. Checks the resulting ids, because
 * another mount on /proc could fake the files. Returns whether that succeeded. */
static bool become_user(const char *uid, const char *gid)
{
    if (call(__NR_unshare, CLONE_NEWUSER, 0, 0) || !write_map("/proc/self/uid_map", uid) ||
        !write_map("/proc/self/gid_map", gid))
        return false;
    drop_bounding_set();
    return is_id(uid, call(__NR_geteuid, 0, 0, 0)) && is_id(gid, call(__NR_getegid, 0, 0, 0));
}

/* Ignores the signals in `mask`, a decimal number. The signals stay ignored after execve(2). */
static void ignore_signals(const char *mask)
{
    /* The kernel's struct sigaction. Its first member is the handler, SIG_IGN. */
    const long action[4] = {1};
    uint64_t ignored = 0;
    un_number_read(mask, UINT64_MAX, &ignored);
    for (long sig = 1; sig <= SIGNAL_MAX; sig++)
        if (ignored >> (sig - 1) & 1)
            un_raw_call(__NR_rt_sigaction, sig, (long)action, 0, sizeof(uint64_t), 0, 0);
}

static int run_payload(int argc, char **argv, char **envp)
{
    const char *path = UN_DEFAULT_PATH;
    bool in_json = argc > 1 && is_option(argv[1], UN_LOG_JSON);
    argc -= in_json;
    argv += in_json;
    if (argc < 2)
        return write_complaint(in_json, NOT_PROVEN, "usernsctl-verify", "no command to run");
    if (!un_runs_on_gvisor())
        return write_complaint(in_json, NOT_PROVEN, argv[1], UN_NOT_PROVEN);
    if (is_option(argv[1], UN_HEALTH_OPTION)) {
        limit_time();
        argc--;
        argv++;
        if (argc < 2)
            return 0;
    }
    if (argc > 2 && un_begins(argv[1], UN_VERIFY_IGNORE)) {
        ignore_signals(argv[1] + text_length(UN_VERIFY_IGNORE));
        argc--;
        argv++;
    }
    if (argc > 4 && is_option(argv[1], UN_VERIFY_AS)) {
        if (!become_user(argv[2], argv[3]))
            return write_complaint(in_json, NOT_PROVEN, argv[4],
                                   "not started: can't map the command's ids in a user namespace");
        argv += 3;
    }
    for (char **variable = envp; *variable; variable++)
        if (un_begins(*variable, "PATH="))
            path = *variable + text_length("PATH=");
    if (*argv[1] && !un_has_slash(argv[1]))
        return search_payload(in_json, argv + 1, envp, path);
    return explain_exec_failure(in_json, argv[1], exec_payload(argv[1], argv + 1, envp));
}

/* Returns whether the arguments are "--signal NUMBER", except in PID 1 of the sandbox, where
 * --signal is the name of the payload. */
static bool is_for_signal(int argc, char **argv)
{
    return argc == 3 && is_option(argv[1], "--signal") && call(__NR_getpid, 0, 0, 0) != 1;
}

static int signal_first(const char *text)
{
    uint64_t number;
    const char *end = un_number_read(text, SIGNAL_MAX, &number);
    return end && !*end && !call(__NR_kill, 1, (long)number, 0) ? 0 : NOT_PROVEN;
}

static void start(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    int status = is_for_signal(argc, argv) ? signal_first(argv[2])
                                           : run_payload(argc, argv, argv + argc + 1);
    for (;;)
        call(__NR_exit_group, status, 0, 0);
}
