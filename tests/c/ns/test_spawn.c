/* Tests of starting a command: what it inherits, and that a failure leaves no process or descriptor
 * behind. */
#include "check.h"
#include "spawned.h"
#include "sys/sys.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static void the_status_is_the_commands(void)
{
    static const struct {
        const char *script;
        int status;
    } cases[] = {{"exit 0", 0}, {"exit 7", 7}, {"exit 255", 255}, {"kill -TERM $$", 143}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *const argv[] = {"sh", "-c", cases[i].script, NULL};
        struct un_spawn spawn;
        init_command(&spawn, argv);
        CHECK_INT(status_of(&spawn), cases[i].status);
    }
}

static void a_failure_has_its_step_and_leaves_nothing(void)
{
    static const char *const found[] = {"true", NULL}, *const missing[] = {"no-such-tool", NULL};
    static const char *const directory[] = {"/etc", NULL};
    static const int closed_fd[] = {900};
    struct un_spawn spawn[8];
    int steps[] = {UN_STEP_LOOKUP, UN_STEP_EXEC,  UN_STEP_CWD,     UN_STEP_ROOT,
                   UN_STEP_FDS,    UN_STEP_STDIO, UN_STEP_SESSION, UN_STEP_CGROUP};
    int errnums[] = {ENOENT, EACCES, ENOENT, ENOENT, EBADF, EBADF, ESRCH, EBADF};
    for (size_t i = 0; i < COUNT(spawn); i++)
        init_command(&spawn[i], i == 0 ? missing : i == 1 ? directory : found);
    spawn[2].setup.cwd = "/no/such/directory";
    spawn[3].setup.root = "/no/such/directory";
    spawn[4].keep = closed_fd;
    spawn[4].keep_count = 1;
    spawn[5].stdio[0] = 900;
    spawn[6].process_group = 4194304;
    spawn[7].cgroup = 900;

    for (size_t i = 0; i < COUNT(spawn); i++) {
        struct un_error err;
        pid_t pid = 0;
        int pidfd = -1;
        int next = dup(0);
        close(next);
        CHECK_INT(un_spawn(&spawn[i], &pid, &pidfd, &err), -1);
        CHECK_TEXT(un_step_name(err.step), un_step_name(steps[i]));
        /* Accept EPERM, too: for users other than root, chroot(2) or joining a process group fails
         * with EPERM before the expected error. */
        CHECK(err.errnum == errnums[i] || err.errnum == EPERM);
        check_no_child_left();
        CHECK_INT(dup(0), next);
        close(next);
    }
}

static void the_command_gets_what_was_asked_for(void)
{
    static const char script[] = "umask; pwd; "
                                 "read line; echo $line; echo ${HOME-unset}";
    static const char *const argv[] = {"sh", "-c", script, NULL};
    struct un_spawn spawn;
    char text[256];
    int input[2];
    CHECK_INT(pipe2(input, O_CLOEXEC), 0);
    CHECK_INT(write(input[1], "hello\n", 6), 6);
    close(input[1]);
    init_command(&spawn, argv);
    spawn.setup.cwd = "/usr";
    spawn.umask = 027;
    spawn.stdio[0] = input[0];
    spawn.stdio[2] = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK_INT(output_of(&spawn, text, sizeof text), 0);
    CHECK_TEXT(text, "0027\n/usr\nhello\nunset\n");
    close(input[0]);
    close(spawn.stdio[2]);
    /* The umask of the command must not change that of the parent. */
    mode_t mask = umask(022);
    umask(mask);
    CHECK(mask != 027);
}

/* Reads the command's pid, process group and session from its /proc/self/stat. */
static void read_session(struct un_spawn *spawn, int *pid, int *group, int *session)
{
    char text[512];
    CHECK_INT(output_of(spawn, text, sizeof text), 0);
    CHECK_INT(sscanf(text, "%d (cat) R %*d %d %d", pid, group, session), 3);
}

static void the_command_is_in_the_session_and_group_asked_for(void)
{
    static const char *const argv[] = {"cat", "/proc/self/stat", NULL};
    struct un_spawn spawn;
    int pid, group, session;

    init_command(&spawn, argv);
    read_session(&spawn, &pid, &group, &session);
    CHECK_INT(group, getpgrp());
    CHECK_INT(session, getsid(0));

    spawn.process_group = 0;
    read_session(&spawn, &pid, &group, &session);
    CHECK_INT(group, pid);
    CHECK_INT(session, getsid(0));

    init_command(&spawn, argv);
    spawn.new_session = true;
    read_session(&spawn, &pid, &group, &session);
    CHECK_INT(group, pid);
    CHECK_INT(session, pid);
}

static void ignore_signal(int sig)
{
    (void)sig;
}

/* Returns the signal set `name` in the command's /proc/self/status. */
static uint64_t signal_set(struct un_spawn *spawn, const char *name)
{
    char text[4096];
    unsigned long long set = 0;
    CHECK_INT(output_of(spawn, text, sizeof text), 0);
    const char *line = strstr(text, name);
    CHECK(line != NULL);
    CHECK_INT(sscanf(line + strlen(name), ":%llx", &set), 1);
    return set;
}

static void signals_are_inherited_except_handlers(void)
{
    static const char *const argv[] = {"cat", "/proc/self/status", NULL};
    const uint64_t usr1 = 1ULL << (SIGUSR1 - 1), usr2 = 1ULL << (SIGUSR2 - 1);
    const uint64_t pipe_bit = 1ULL << (SIGPIPE - 1);
    struct sigaction handler = {.sa_handler = ignore_signal};
    sigset_t block, before, after;
    struct un_spawn spawn;

    sigemptyset(&block);
    sigaddset(&block, SIGUSR2);
    sigprocmask(SIG_BLOCK, &block, &before);
    sigaction(SIGUSR1, &handler, NULL);
    signal(SIGPIPE, SIG_IGN);

    init_command(&spawn, argv);
    CHECK_INT((long long)signal_set(&spawn, "SigBlk"), (long long)usr2);
    CHECK_INT((long long)(signal_set(&spawn, "SigCgt") & usr1), 0);
    CHECK_INT((long long)(signal_set(&spawn, "SigIgn") & (usr1 | pipe_bit)), (long long)pipe_bit);
    spawn.restore_signals = true;
    CHECK_INT((long long)(signal_set(&spawn, "SigIgn") & pipe_bit), 0);

    sigprocmask(SIG_SETMASK, NULL, &after);
    CHECK(sigismember(&after, SIGUSR2) && !sigismember(&after, SIGUSR1));
    struct sigaction now;
    sigaction(SIGUSR1, NULL, &now);
    CHECK(now.sa_handler == ignore_signal);
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
}

static void only_named_descriptors_are_passed(void)
{
    static const char *const argv[] = {"ls", "/proc/self/fd", NULL};
    struct un_spawn spawn;
    char text[256];
    int kept = fcntl(0, F_DUPFD_CLOEXEC, 40), other = fcntl(0, F_DUPFD, 50);
    CHECK_INT(kept, 40);
    CHECK_INT(other, 50);
    init_command(&spawn, argv);
    spawn.keep = &kept;
    spawn.keep_count = 1;
    CHECK_INT(output_of(&spawn, text, sizeof text), 0);
    /* `ls` also lists descriptor 3, by which it has opened /proc/self/fd itself. */
    CHECK_TEXT(text, "0\n1\n2\n3\n40\n");
    spawn.close_fds = false;
    CHECK_INT(output_of(&spawn, text, sizeof text), 0);
    CHECK_HAS(text, "\n50\n");
    CHECK(fcntl(kept, F_GETFD) & FD_CLOEXEC);
    close(kept);
    close(other);
}

/* Starts a long-running command with a parent-death signal, writes the command's pid to *arg, and
 * exits before the command does. */
static int die_before_the_command(void *arg)
{
    static const char *const argv[] = {"sleep", "1000", NULL};
    const int *out = arg;
    struct un_spawn spawn;
    struct un_error err;
    pid_t pid;
    int pidfd;
    init_command(&spawn, argv);
    spawn.setup.pdeathsig = SIGKILL;
    CHECK_OK(un_spawn(&spawn, &pid, &pidfd, &err), &err);
    CHECK_INT(write(*out, &pid, sizeof pid), sizeof pid);
    return 0;
}

static void the_command_dies_with_its_parent_if_asked_to(void)
{
    int ends[2];
    pid_t orphan;
    CHECK_INT(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    CHECK_INT(pipe2(ends, O_CLOEXEC), 0);
    CHECK_INT(forked(die_before_the_command, &ends[1]), 0);
    CHECK_INT(read(ends[0], &orphan, sizeof orphan), sizeof orphan);
    CHECK_INT(wait_for(orphan), 128 + SIGKILL);
    close(ends[0]);
    close(ends[1]);
}

/* Stores the signal mask that the child has before execve(2). */
static int report_mask(void *arg)
{
    uint64_t *mask = arg;
    return (int)syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, mask, sizeof *mask);
}

/* Checks that all signals are blocked in a vfork child, including those that libc uses itself: 32
 * cancels a thread, and 33 changes the ids of threads. */
static void all_signals_are_blocked_in_a_vfork_child(void)
{
    uint64_t mask = 0, before = un_block_signals();
    un_set_signals(before);
    struct un_clone clone = {
        .flags = CLONE_VM | CLONE_VFORK,
        .run = report_mask,
        .arg = &mask,
        .exit_signal = SIGCHLD,
    };
    CHECK_INT(un_clone(&clone), 0);
    CHECK_INT(wait_for(clone.pid), 0);
    const uint64_t never = UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1);
    CHECK_INT((long long)(mask | never), -1);
    uint64_t after = un_block_signals();
    un_set_signals(after);
    CHECK_INT((long long)after, (long long)before);
}

struct cancelled {
    const char *script;
    int status;
    bool has_returned;
};

static void *spawn_while_cancelled(void *arg)
{
    struct cancelled *cancelled = arg;
    const char *const argv[] = {"sh", "-c", cancelled->script, NULL};
    struct un_spawn spawn;
    struct un_error err;
    pid_t pid = 0;
    int pidfd = -1;
    init_command(&spawn, argv);
    pthread_cancel(pthread_self());
    int failed = un_spawn(&spawn, &pid, &pidfd, &err);
    int state;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    CHECK_INT(state, PTHREAD_CANCEL_ENABLE);
    cancelled->has_returned = true;
    if (!failed) {
        close(pidfd);
        cancelled->status = wait_for(pid);
    }
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    pthread_testcancel();
    return NULL;
}

static void a_thread_is_cancelled_after_the_command_was_started(void)
{
    struct cancelled cancelled = {.script = "exit 7", .status = -1};
    pthread_t thread;
    void *result;
    CHECK_INT(pthread_create(&thread, NULL, spawn_while_cancelled, &cancelled), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK(cancelled.has_returned);
    CHECK_INT(cancelled.status, 7);
    CHECK(result == PTHREAD_CANCELED);
}

int main(void)
{
    all_signals_are_blocked_in_a_vfork_child();
    a_thread_is_cancelled_after_the_command_was_started();
    the_status_is_the_commands();
    a_failure_has_its_step_and_leaves_nothing();
    the_command_gets_what_was_asked_for();
    the_command_is_in_the_session_and_group_asked_for();
    signals_are_inherited_except_handlers();
    only_named_descriptors_are_passed();
    the_command_dies_with_its_parent_if_asked_to();
    check_no_child_left();
}
