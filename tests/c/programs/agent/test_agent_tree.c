/* Tests of killing all descendants of a process, as the agent does in a sandbox. */
#include "agent_process.h"
#include "inside.h"
#include "needs.h"

#define LAST_PID "/proc/sys/kernel/ns_last_pid"

/* Forks a process that waits for a signal. */
static pid_t start_sleeper(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    while (!pid)
        pause();
    return pid;
}

/* Forks a process that itself forks a sleeping child. If `waits` is set, the process waits for its
 * child, and exits with status 0 if the child was killed by SIGKILL; otherwise it only sleeps.
 * Returns the pid of the process once the child exists. */
static pid_t start_parent(bool waits)
{
    int ready[2];
    char byte;
    CHECK_INT(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        pid_t child = start_sleeper();
        CHECK_INT(write(ready[1], "", 1), 1);
        while (!waits)
            pause();
        _exit(wait_for(child) == 128 + SIGKILL ? 0 : 1);
    }
    close(ready[1]);
    CHECK_INT(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

/* Checks that agent_kill_while_stopped() kills only the descendants of a process, and lets all
 * other processes continue. */
static void descendants_are_killed_while_all_is_stopped(void)
{
    pid_t root = start_parent(true), other = start_sleeper();
    int proc = agent_open_proc();
    CHECK(proc >= 0);
    agent_kill_while_stopped(proc, root);
    CHECK_INT(wait_for(root), 0);
    CHECK_INT(kill(other, SIGTERM), 0);
    CHECK_INT(wait_for(other), 128 + SIGTERM);
    close(proc);
}

static bool reap_and_count(void *arg)
{
    int *count = arg;
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
        ++*count;
    return pid == 0;
}

static void children_and_orphans_end_without_proc(void)
{
    int count = 0;
    const struct agent_killing how = {.reap = reap_and_count, .arg = &count};
    start_parent(false);
    start_sleeper();
    CHECK(!agent_signal_tree(-1, 0, SIGKILL));
    agent_kill_tree(-1, &how);
    CHECK_INT(count, 3);
    check_no_child_left();
}

static bool is_spared(pid_t pid, void *arg)
{
    const pid_t *spared = arg;
    return pid == *spared;
}

static void others_end_without_proc(void)
{
    int count = 0;
    pid_t spared = start_sleeper();
    start_parent(false);
    for (int round = 0; round < 1000 && agent_kill_others(-1, is_spared, &spared); round++) {
        reap_and_count(&count);
        usleep(1000);
    }
    CHECK_INT(count, 2);
    CHECK(!agent_kill_others(-1, is_spared, &spared));
    CHECK_INT(kill(spared, SIGKILL), 0);
    CHECK_INT(wait_for(spared), 128 + SIGKILL);
    check_no_child_left();
}

/* A simulated process tree. Some of its processes survive the first rounds of killing. */
struct process_tree {
    int rounds, helps;
};

static bool is_left(void *arg)
{
    struct process_tree *tree = arg;
    return !tree->helps && tree->rounds++ < 100;
}

static void count_help(void *arg)
{
    struct process_tree *tree = arg;
    tree->helps++;
}

static void help_is_requested_after_some_rounds(void)
{
    struct process_tree tree = {0, 0};
    const struct agent_killing how = {.reap = is_left, .get_help = count_help, .arg = &tree};
    int proc = agent_open_proc();
    agent_kill_tree(proc, &how);
    CHECK_INT(tree.helps, 1);
    close(proc);
}

/* Sets the pid of the next process in this PID namespace to `pid`. */
static void reuse_pid(pid_t pid)
{
    char text[16];
    snprintf(text, sizeof text, "%d", (int)pid - 1);
    write_to(LAST_PID, text, 0);
}

/* Checks that killing the background processes of an exited command spares the keeper of a later
 * command, that is, the agent's child process that waits for it. The keeper must survive even if it
 * has got the pid of the exited command and leads the process group with that id. */
static void a_later_command_with_the_pid_of_an_ended_one_survives(void)
{
    struct agent_process agent;
    int alive, again;
    pid_t pid, other;
    /* End the test if the next pid can't be set, as on a kernel without
     * CONFIG_CHECKPOINT_RESTORE. */
    if (access(LAST_PID, W_OK))
        return;
    start_agent(&agent);
    int ended = start_script(&agent, "setsid sh -c 'echo; exec sleep 1000' &", &alive, &pid);
    CHECK_INT(receive_end(ended), 0);
    reuse_pid(pid);
    int later = start_script(&agent, "echo; exec sleep 1000", &again, &other);
    CHECK_INT(getpgid(pid), pid);
    send_note(ended, AGENT_SIGNAL, AGENT_TO_TREE, SIGKILL);
    CHECK_INT(receive_answer(ended).size, 0);
    check_all_end(alive);
    send_note(later, AGENT_SIGNAL, AGENT_TO_PROCESS, SIGTERM);
    CHECK_INT(receive_end(later), SIGTERM);
    check_all_end(again);
    close(later);
    close(ended);
    CHECK_INT(stop_agent(&agent), 0);
}

/* Checks that the agent reports only one exit status of a command, even if a background process of
 * the command gets the pid of the exited command, and then exits, too. */
static void a_background_process_with_the_pid_of_its_command_reports_no_end(void)
{
    static const char script[] =
        "setsid sh -c 'trap \"sleep 0.05 & echo \\$!; exit\" USR1; echo; while :; do :; done' &";
    struct agent_process agent;
    char line[16] = "";
    int alive;
    pid_t pid;
    if (access(LAST_PID, W_OK))
        return;
    start_agent(&agent);
    int ended = start_script(&agent, script, &alive, &pid);
    CHECK_INT(receive_end(ended), 0);
    reuse_pid(pid);
    send_note(ended, AGENT_SIGNAL, AGENT_TO_TREE, SIGUSR1);
    CHECK(read(alive, line, sizeof line - 1) > 0);
    CHECK_INT(atoi(line), pid);
    check_all_end(alive);
    send_note(ended, AGENT_SIGNAL, AGENT_TO_TREE, SIGKILL);
    CHECK_INT(receive_answer(ended).size, 0);
    close(ended);
    CHECK_INT(stop_agent(&agent), 0);
}

/* Runs the tests in a process that is PID 1 of a PID namespace. */
static int run_tests(void *arg)
{
    struct un_error err;
    (void)arg;
    CHECK_INT(getpid(), 1);
    /* agent_open_proc() must reject the old /proc, which shows the pids of the parent PID
     * namespace. */
    CHECK_INT(agent_open_proc(), -1);
    CHECK_OK(un_mount("proc", "/proc", "proc", 0, NULL, &err), &err);
    descendants_are_killed_while_all_is_stopped();
    children_and_orphans_end_without_proc();
    others_end_without_proc();
    help_is_requested_after_some_rounds();
    a_later_command_with_the_pid_of_an_ended_one_survives();
    a_background_process_with_the_pid_of_its_command_reports_no_end();
    return 0;
}

static int run_apart(void *arg)
{
    enter_inside();
    CHECK_INT(unshare(CLONE_NEWPID), 0);
    return forked(run_tests, arg);
}

int main(void)
{
    need_user_namespaces();
    return forked(run_apart, NULL);
}
