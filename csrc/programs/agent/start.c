#include "base/base.h"
#include "programs/agent/agent.h"
#include "sys/sys.h"

#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int answer_start_failure(struct agent_start *start, int step, int errnum)
{
    start->step = step;
    start->errnum = errnum;
    return 1;
}

/* Creates a session or process group for the command, and sets the controlling terminal of a
 * command that runs in a terminal. Returns 0, or 1 with the error in `start`. */
static int set_session(struct agent_start *start, unsigned flags)
{
    /* Always make the command the leader of a new process group, so that one kill(2) reaches the
     * command and its children. */
    bool leads = flags & (AGENT_NEW_SESSION | AGENT_TERMINAL);
    if (leads ? setsid() < 0 : setpgid(0, 0))
        return answer_start_failure(start, AGENT_STEP_FORK, errno);
    if (start->has_terminal && ioctl(start->stdio[0], TIOCSCTTY, 0))
        return answer_start_failure(start, AGENT_STEP_TERMINAL, errno);
    return 0;
}

static int set_limits(struct agent_start *start)
{
    const struct agent_message *message = start->message;
    for (uint32_t i = 0; i < message->header.limits; i++) {
        struct agent_limit asked;
        agent_read_limit(message, i, &asked);
        const uint64_t limit[] = {asked.soft, asked.hard}; /* struct rlimit64 of the kernel */
        if (syscall(SYS_prlimit64, 0, asked.resource, limit, NULL))
            return answer_start_failure(start, AGENT_STEP_LIMITS, errno);
    }
    return 0;
}

/* Sets the ids and capabilities of the command. This process shares the agent's memory until its
 * execve(2), so other processes must not be able to ptrace(2) this process. The kernel ensures that
 * by making a process non-dumpable when the ids of the process change. Returns 0, or -1 with errno
 * set. */
static int change_ids(struct agent_start *start)
{
    const struct agent *agent = start->agent;
    const struct agent_header *header = &start->message->header;
    bool sets = header->flags & AGENT_IDS, limits = header->flags & AGENT_CAPABILITIES;
    uid_t uid = sets ? header->uid : agent->uid;
    if ((limits && agent_limit_caps(&agent->caps, header->capabilities)) ||
        (header->groups != AGENT_UNCHANGED &&
         syscall(SYS_setgroups, (size_t)header->groups, start->groups)) ||
        (sets && syscall(SYS_setresgid, header->gid, header->gid, header->gid)) ||
        syscall(SYS_setresuid, uid, uid, uid))
        return -1;
    return limits ? agent_set_caps(header->capabilities) : 0;
}

static int set_up_command(struct agent_start *start)
{
    const struct agent_header *header = &start->message->header;
    struct un_error err;
    if (set_session(start, header->flags))
        return 1;
    if (un_place_stdio(start->stdio, &err))
        return answer_start_failure(start, AGENT_STEP_FORK, err.errnum);
    /* Set the limits before the ids, because raising a limit needs the agent's capabilities. */
    if (set_limits(start))
        return 1;
    if (change_ids(start))
        return answer_start_failure(start, AGENT_STEP_IDS, errno);
    /* Set the parent-death signal after the ids, because the kernel clears it when the ids change
     * (prctl(2)). */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
        return answer_start_failure(start, AGENT_STEP_FORK, errno);
    if (header->umask != AGENT_UNCHANGED)
        umask(header->umask & 0777);
    /* Skip chdir(2) for "/", which is the agent's working directory. */
    if (strcmp(start->strings->cwd, "/") && chdir(start->strings->cwd))
        return answer_start_failure(start, AGENT_STEP_CWD, errno);
    return 0;
}

/* Returns the value of the environment variable `name` in `environment`, or NULL if it is not
 * set. */
static const char *environment_value(const char *const *environment, const char *name)
{
    size_t length = strlen(name);
    for (; *environment; environment++)
        if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
            return *environment + length + 1;
    return NULL;
}

/* Maximum size in bytes of an argument or environment variable with its NUL (MAX_ARG_STRLEN,
 * execve(2)). gVisor has the same limit as Linux. */
#define STRING_MAX (128 * 1024)

static bool has_long_string(const char *const *strings)
{
    for (; *strings; strings++)
        if (strnlen(*strings, STRING_MAX) == STRING_MAX)
            return true;
    return false;
}

/* Returns the errno with which Linux's execve(2) would fail. If a string is too long, gVisor fails
 * with ENAMETOOLONG instead of E2BIG. */
static int errno_of_exec(const struct agent_strings *strings, int errnum)
{
    bool is_too_long = has_long_string(strings->argv) || has_long_string(strings->envp);
    return errnum == ENAMETOOLONG && is_too_long ? E2BIG : errnum;
}

/* Executes the command, in a child that shares the keeper's memory until the execve(2). Returns 1
 * on failure, with the error in start->step and start->errnum. */
static int become_agent_command(void *arg)
{
    struct agent_start *start = arg;
    const struct agent_strings *strings = start->strings;
    if (set_up_command(start))
        return 1;
    un_set_signals(0);
    const struct un_command command = {
        .file = strings->program,
        .path = environment_value(strings->envp, "PATH"),
        .argv = strings->argv,
        .envp = strings->envp,
    };
    struct un_error err;
    un_exec(&command, &err);
    bool is_missing = err.step == UN_STEP_LOOKUP;
    return answer_start_failure(start, is_missing ? AGENT_STEP_LOOKUP : AGENT_STEP_EXEC,
                                errno_of_exec(strings, err.errnum));
}

/* Waits until the child has executed the command or exited. Either event closes the write end of
 * the pipe `executed`. Kills the child if the host cancels the command. */
static void await_exec(const struct agent_start *start, pid_t pid, int executed)
{
    struct agent_wait wait = start->wait;
    wait.fd = executed;
    if (agent_wait_while_wanted(&wait))
        return;
    kill(pid, SIGKILL);
    wait.socket = -1;
    agent_wait_while_wanted(&wait);
}

pid_t agent_start_command(struct agent_start *start)
{
    struct un_clone child = {
        .flags = CLONE_VM | (start->stack ? 0 : CLONE_VFORK),
        .run = become_agent_command,
        .arg = start,
        .exit_signal = SIGCHLD,
        .is_plain = true,
        .stack = start->stack,
    };
    int executed[2];
    start->step = start->errnum = 0;
    if (pipe2(executed, O_CLOEXEC)) {
        answer_start_failure(start, AGENT_STEP_FORK, errno);
        return -1;
    }
    int failed = un_clone(&child) ? errno : 0;
    close(executed[1]);
    if (!failed)
        await_exec(start, child.pid, executed[0]);
    close(executed[0]);
    if (failed) {
        answer_start_failure(start, AGENT_STEP_FORK, failed);
        return -1;
    }
    if (!start->step)
        return child.pid;
    while (waitpid(child.pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    return -1;
}
