/*
 * injector [-u USER] COMMAND...: runs a command that can make its own system calls fail.
 *
 * The injector traces the command with ptrace(2), and each program of usernsctl, Python, newuidmap
 * and newgidmap that the command starts. Other programs, such as runsc, run untraced. The command
 * sends orders to the injector: an order (enum order) is a close(2) call with additional arguments
 * for the descriptor MARK, which does not exist.
 *
 * -u: run the command as USER. Needs root. newuidmap can be traced only with -u, because the kernel
 * gives a set-user-ID program its privileges only if the tracer is privileged.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MARK (-4242)
#define SITES 100000
#define TRACEES 1024

/* An order: the second argument of a close(2) call for the descriptor MARK. A site is a counted
 * system call; the first site has index 0. */
enum order {
    ARM,    /* start to count system calls. Arguments: the number of the system call to fail, plus
             * 2^32 times the occurrence to fail (from 1; 0 for none); an enum fault; the value
             * of the fault; the pid of a process whose calls are not counted (0 for none; 1 to
             * count only native programs' calls) */
    DISARM, /* stop counting; returns the number of counted calls */
    BEFORE, /* returns the number of counted calls before the first exec of an untraced program, or
             * of all counted calls if there was no such exec */
    NR,     /* returns the number of the system call at a site; argument: index of the site */
    WHO,    /* returns seven bytes of the name, without the prefix "usernsctl-", of the program
             * that made the call at a site; argument: index of the site */
    HIT     /* returns the number of the counted call (from 1) that had the fault, or 0 */
};

/* A fault that is injected into a system call. Some faults have a value. */
enum fault {
    NOTHING,
    ERROR,     /* the call has no effect, and fails; value: errno */
    SHORTENED, /* the call reads or writes at most half of the requested bytes */
    SIGNAL,    /* the process receives a signal before the call; value: number of the signal */
    PAUSE,     /* the process is stopped, and continued, before the call */
    VICTIM     /* a process is killed before the call; value: pid */
};

struct tracee {
    pid_t pid;
    bool is_inside; /* true between the entry and the exit of a system call */
    bool has_result;
    int64_t result; /* replaces the result of the system call, if has_result is true */
};

struct site {
    int32_t nr;
    char who[8];
};

static struct tracee tracees[TRACEES];
static struct site sites[SITES];
static struct {
    bool armed, has_left;
    pid_t excluded;
    uint64_t count, nr, occurrence, fault, value, before, hit;
} state;

static void die(const char *what)
{
    perror(what);
    exit(120);
}

static struct tracee *find(pid_t pid)
{
    struct tracee *unused = NULL;
    for (size_t i = 0; i < TRACEES; i++) {
        if (tracees[i].pid == pid)
            return &tracees[i];
        if (!unused && !tracees[i].pid)
            unused = &tracees[i];
    }
    if (!unused) {
        fprintf(stderr, "injector: more than %d processes\n", TRACEES);
        exit(120);
    }
    *unused = (struct tracee){.pid = pid};
    return unused;
}

static const char *name_of(pid_t pid, char name[32])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    FILE *file = fopen(path, "re");
    name[0] = '\0';
    if (file && fgets(name, 32, file))
        name[strcspn(name, "\n")] = '\0';
    if (file)
        fclose(file);
    return name;
}

static bool begins(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool is_native(pid_t pid)
{
    char name[32];
    name_of(pid, name);
    return begins(name, "usernsctl-") || begins(name, "newuidmap") || begins(name, "newgidmap");
}

static bool is_ours(pid_t pid)
{
    char name[32];
    return is_native(pid) || begins(name_of(pid, name), "python");
}

static void note_site(pid_t pid, uint64_t nr)
{
    if (state.count >= SITES)
        return;
    char name[32];
    name_of(pid, name);
    const char *who = begins(name, "usernsctl-") ? name + strlen("usernsctl-") : name;
    struct site *site = &sites[state.count];
    *site = (struct site){.nr = (int32_t)nr};
    memcpy(site->who, who, strnlen(who, 7));
}

static int64_t obey(const uint64_t args[6])
{
    uint64_t at = args[2];
    switch (args[1]) {
    case ARM:
        memset(&state, 0, sizeof state);
        state.armed = true;
        state.nr = (uint32_t)args[2];
        state.occurrence = args[2] >> 32;
        state.fault = args[3];
        state.value = args[4];
        state.excluded = (pid_t)args[5];
        return 0;
    case DISARM:
        state.armed = false;
        return (int64_t)state.count;
    case BEFORE:
        return (int64_t)(state.has_left ? state.before : state.count);
    case NR:
        return at < SITES ? sites[at].nr : 0;
    case WHO: {
        int64_t who = 0;
        if (at < SITES)
            memcpy(&who, sites[at].who, 7);
        return who;
    }
    case HIT:
        return (int64_t)state.hit;
    default:
        return 0;
    }
}

static bool is_counted(uint64_t nr, pid_t pid)
{
    switch (nr) {
    case SYS_exit:
    case SYS_exit_group:
    case SYS_rt_sigreturn:
    case SYS_restart_syscall:
        return false; /* Calls that can't fail, or that resume a process after a signal. */
    }
    if (state.excluded == 1)
        return is_native(pid);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d", state.excluded, pid);
    return !state.excluded || access(path, F_OK) != 0;
}

/* Halves the third argument, which is the number of bytes of calls such as read(2) and write(2). */
static void shorten(struct user_regs_struct *regs)
{
    if (regs->rdx > 1)
        regs->rdx /= 2;
    else
        state.hit = 0;
}

static void inject(struct tracee *tracee, struct user_regs_struct *regs)
{
    state.hit = state.count;
    switch (state.fault) {
    case ERROR:
        /* Let close(2) run: Linux closes the descriptor even if the call fails. */
        if (regs->orig_rax != SYS_close)
            regs->orig_rax = (unsigned long long)-1;
        tracee->has_result = true;
        tracee->result = -(int64_t)state.value;
        break;
    case SHORTENED:
        shorten(regs);
        break;
    case SIGNAL:
        kill(tracee->pid, (int)state.value);
        return;
    case PAUSE:
        kill(tracee->pid, SIGSTOP);
        kill(tracee->pid, SIGCONT);
        return;
    case VICTIM:
        kill((pid_t)state.value, SIGKILL);
        return;
    default:
        return;
    }
    if (ptrace(PTRACE_SETREGS, tracee->pid, NULL, regs) < 0 && errno != ESRCH)
        die("injector: PTRACE_SETREGS");
}

static void enter_call(struct tracee *tracee, struct user_regs_struct *regs,
                       const struct __ptrace_syscall_info *info)
{
    uint64_t nr = info->entry.nr;
    if (nr == SYS_close && (int)info->entry.args[0] == MARK) {
        uint64_t args[6];
        memcpy(args, info->entry.args, sizeof args);
        tracee->has_result = true;
        tracee->result = obey(args);
        regs->orig_rax = (unsigned long long)-1;
        if (ptrace(PTRACE_SETREGS, tracee->pid, NULL, regs) < 0)
            die("injector: PTRACE_SETREGS");
        return;
    }
    if (!state.armed || !is_counted(nr, tracee->pid))
        return;
    note_site(tracee->pid, nr);
    state.count++;
    if (nr == state.nr && state.occurrence && --state.occurrence == 0)
        inject(tracee, regs);
}

/* Handles the entry or the exit of a system call. Does nothing if the tracee has been killed. */
static void at_call(struct tracee *tracee)
{
    struct __ptrace_syscall_info info;
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, tracee->pid, sizeof info, &info) <= 0 ||
        ptrace(PTRACE_GETREGS, tracee->pid, NULL, &regs) < 0)
        return;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        enter_call(tracee, &regs, &info);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && tracee->has_result) {
        tracee->has_result = false;
        regs.rax = (unsigned long long)tracee->result;
        ptrace(PTRACE_SETREGS, tracee->pid, NULL, &regs);
    }
}

/* Handles a stop of a tracee, and lets the tracee continue. */
static void at_stop(pid_t pid, int status)
{
    struct tracee *tracee = find(pid);
    int sig = WSTOPSIG(status);
    int event = status >> 16;
    if (event == PTRACE_EVENT_EXEC && !is_ours(pid)) {
        if (state.armed && !state.has_left) {
            state.has_left = true;
            state.before = state.count;
        }
        ptrace(PTRACE_DETACH, pid, NULL, NULL);
        tracee->pid = 0;
        return;
    }
    if (event == PTRACE_EVENT_STOP && sig != SIGTRAP) {
        /* A signal has stopped the tracee, which must stay stopped until it receives SIGCONT. */
        ptrace(PTRACE_LISTEN, pid, NULL, NULL);
        return;
    }
    if (sig == (SIGTRAP | 0x80)) {
        at_call(tracee);
        sig = 0;
    } else if (event) {
        sig = 0;
    }
    ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(intptr_t)sig);
}

static void become(const char *user)
{
    const struct passwd *entry = getpwnam(user);
    if (!entry || initgroups(user, entry->pw_gid) ||
        setresgid(entry->pw_gid, entry->pw_gid, entry->pw_gid) ||
        setresuid(entry->pw_uid, entry->pw_uid, entry->pw_uid))
        die("injector: -u");
}

static pid_t start(const char *user, char **command)
{
    int gate[2];
    if (pipe(gate))
        die("injector: pipe");
    pid_t pid = fork();
    if (pid < 0)
        die("injector: fork");
    if (pid == 0) {
        char byte;
        if (user)
            become(user);
        close(gate[1]);
        if (read(gate[0], &byte, 1) != 1)
            _exit(120);
        close(gate[0]);
        execv(command[0], command);
        die(command[0]);
    }
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
    if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)options) < 0)
        die("injector: PTRACE_SEIZE");
    close(gate[0]);
    if (write(gate[1], "", 1) != 1)
        die("injector: write");
    close(gate[1]);
    return pid;
}

int main(int argc, char **argv)
{
    const char *user = NULL;
    argv++;
    if (argc > 3 && strcmp(argv[0], "-u") == 0) {
        user = argv[1];
        argv += 2;
    }
    if (!argv[0])
        return 120;
    pid_t first = start(user, argv);
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid < 0)
            die("injector: waitpid");
        if (WIFSTOPPED(status)) {
            at_stop(pid, status);
            continue;
        }
        find(pid)->pid = 0;
        if (pid == first)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}
