/* Tests of starting a command in new namespaces, by clone3(2), and by clone(2) if clone3(2) is
 * denied. */
#include "check.h"
#include "needs.h"
#include "seccomp.h"
#include "spawned.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif

static void the_command_sees_the_map_that_was_planned(void)
{
    static const char *const argv[] = {"cat", "/proc/self/uid_map", "/proc/self/gid_map", NULL};
    struct un_plan plan;
    struct un_spawn spawn;
    char text[256];
    unsigned numbers[6];
    plan_own_ids(7, 8, &plan);
    init_command(&spawn, argv);
    spawn.plan = &plan;
    CHECK_INT(output_of(&spawn, text, sizeof text), 0);
    CHECK_INT(sscanf(text, "%u %u %u %u %u %u", &numbers[0], &numbers[1], &numbers[2], &numbers[3],
                     &numbers[4], &numbers[5]),
              6);
    CHECK_INT(numbers[0], 7);
    CHECK_INT(numbers[1], geteuid());
    CHECK_INT(numbers[2], 1);
    CHECK_INT(numbers[3], 8);
    CHECK_INT(numbers[4], getegid());
    CHECK_INT(numbers[5], 1);
}

static void the_command_is_the_first_process_of_a_new_pid_namespace(void)
{
    static const char *const argv[] = {"sh", "-c", "exit $$", NULL};
    struct un_plan plan;
    struct un_spawn spawn;
    plan_own_ids(0, 0, &plan);
    init_command(&spawn, argv);
    spawn.plan = &plan;
    spawn.flags = un_ns_flag(UN_NS_PID) | un_ns_flag(UN_NS_MOUNT);
    CHECK_INT(status_of(&spawn), 1);
}

static void the_command_is_a_child_of_an_init_if_asked_for(void)
{
    static const struct {
        const char *script;
        int status;
    } cases[] = {{"exit $$$PPID", 21}, {"kill -TERM $$", 128 + SIGTERM}};
    struct un_plan plan;
    plan_own_ids(0, 0, &plan);
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *const argv[] = {"sh", "-c", cases[i].script, NULL};
        struct un_spawn spawn;
        init_command(&spawn, argv);
        spawn.plan = &plan;
        spawn.flags = un_ns_flag(UN_NS_PID);
        spawn.has_init = true;
        CHECK_INT(status_of(&spawn), cases[i].status);
    }
}

/* Checks a command that joins a namespace and gets a new PID namespace. Such a command requires a
 * second child. */
static void a_pid_namespace_can_be_added_to_a_created_namespace(void)
{
    static const char *const argv[] = {"sh", "-c", "exit $$", NULL};
    static const char *const missing[] = {"no-such-tool", NULL};
    struct un_plan plan;
    struct un_namespace ns;
    struct un_spawn spawn;
    struct un_error err;
    pid_t pid;
    int pidfd;
    plan_own_ids(0, 0, &plan);
    CHECK_OK(un_namespace_create(&plan, 0, child_program(), &ns, &err), &err);
    init_command(&spawn, argv);
    spawn.join = &ns;
    spawn.flags = un_ns_flag(UN_NS_PID);
    CHECK_INT(status_of(&spawn), 1);
    check_no_child_left();

    init_command(&spawn, missing);
    spawn.join = &ns;
    spawn.flags = un_ns_flag(UN_NS_PID);
    CHECK_INT(un_spawn(&spawn, &pid, &pidfd, &err), -1);
    CHECK_INT(err.step, UN_STEP_LOOKUP);
    check_no_child_left();
    un_namespace_close(&ns);
}

static void a_refused_map_leaves_nothing(void)
{
    static const char *const argv[] = {"true", NULL};
    struct un_plan plan;
    struct un_spawn spawn;
    struct un_error err;
    pid_t pid;
    int pidfd;
    plan_own_ids(0, 0, &plan);
    /* Use an invalid map, which planning never returns. */
    plan.map.of[UN_UID].extent[0].count = 0;
    init_command(&spawn, argv);
    spawn.plan = &plan;
    CHECK_INT(un_spawn(&spawn, &pid, &pidfd, &err), -1);
    CHECK_INT(err.step, UN_STEP_UID_MAP);
    CHECK_INT(err.errnum, EINVAL);
    check_no_child_left();
}

static int in_every_way(void *arg)
{
    (void)arg;
    the_command_sees_the_map_that_was_planned();
    the_command_is_the_first_process_of_a_new_pid_namespace();
    the_command_is_a_child_of_an_init_if_asked_for();
    a_pid_namespace_can_be_added_to_a_created_namespace();
    a_refused_map_leaves_nothing();
    return 0;
}

/* Makes clone3(2) fail as the seccomp filters of container engines do: with ENOSYS, or with EPERM
 * in older versions. */
static void take_clone3_away(int errnum)
{
    refuse_call(SYS_clone3, errnum);
    CHECK_INT(syscall(SYS_clone3, NULL, 0), -1);
    CHECK_INT(errno, errnum);
}

static int in_every_way_without_clone3(void *arg)
{
    const int *errnum = arg;
    take_clone3_away(*errnum);
    return in_every_way(NULL);
}

enum { THREADS = 16, SPAWNS = 20 };

struct storm {
    struct un_plan plan;
    pid_t self;
    volatile sig_atomic_t here;      /* number of signals that this process has handled */
    volatile sig_atomic_t elsewhere; /* number of signals that a vfork child, which shares this
                                        memory, has handled; must stay 0 */
    atomic_bool over;
};

/* Global, because no data can be passed to a signal handler. */
static struct storm storm;

static void note_where(int sig)
{
    (void)sig;
    if ((pid_t)syscall(SYS_getpid) == storm.self)
        storm.here = storm.here + 1;
    else
        storm.elsewhere = 1;
}

static void *spawn_many(void *arg)
{
    static const char *const found[] = {"true", NULL}, *const missing[] = {"no-such-tool", NULL};
    (void)arg;
    for (int i = 0; i < SPAWNS; i++) {
        struct un_spawn spawn;
        struct un_error err;
        pid_t pid;
        int pidfd;
        init_command(&spawn, found);
        spawn.plan = i % 2 ? &storm.plan : NULL;
        CHECK_INT(status_of(&spawn), 0);
        init_command(&spawn, missing);
        CHECK_INT(un_spawn(&spawn, &pid, &pidfd, &err), -1);
        CHECK_INT(err.step, UN_STEP_LOOKUP);
    }
    return NULL;
}

/* Sends SIGWINCH to the process group of this process and its children, again and again, until the
 * test ends. A terminal may do the same. Commands ignore SIGWINCH by default. */
static void *signal_everybody(void *arg)
{
    (void)arg;
    while (!atomic_load(&storm.over))
        CHECK_INT(kill(0, SIGWINCH), 0);
    return NULL;
}

static int no_handler_runs_in_a_child(void *arg)
{
    struct sigaction action = {.sa_handler = note_where, .sa_flags = SA_RESTART};
    pthread_t threads[THREADS], sender;
    (void)arg;
    CHECK_INT(setpgid(0, 0), 0);
    storm.self = getpid();
    plan_own_ids(0, 0, &storm.plan);
    CHECK_INT(sigaction(SIGWINCH, &action, NULL), 0);
    CHECK_INT(pthread_create(&sender, NULL, signal_everybody, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, spawn_many, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    atomic_store(&storm.over, true);
    CHECK_INT(pthread_join(sender, NULL), 0);
    CHECK(storm.here > 100);
    CHECK_INT(storm.elsewhere, 0);
    check_no_child_left();
    return 0;
}

static int no_handler_runs_in_a_child_of_clone(void *arg)
{
    take_clone3_away(ENOSYS);
    return no_handler_runs_in_a_child(arg);
}

/* Checks that this process stays dumpable (PR_SET_DUMPABLE, prctl(2)). The kernel clears that
 * attribute when a child of vfork(2) changes its ids, and the attribute belongs to the address
 * space, which this process shares with the child. */
static void we_stay_dumpable(void)
{
    static const char *const argv[] = {"true", NULL};
    static struct un_request request;
    static struct un_facts facts;
    static struct un_plan plan;
    struct un_spawn spawn;
    struct un_error err;
    CHECK_OK(un_facts_read(&facts, &err), &err);
    CHECK_OK(un_facts_read_parents(&facts, &err), &err);
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        request.id[kind].more = (struct un_map){1, {{0, 1, 1}}};
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    init_command(&spawn, argv);
    spawn.plan = &plan;
    spawn.setup.uid = plan.become[UN_UID];
    spawn.setup.gid = plan.become[UN_GID];
    CHECK_INT(prctl(PR_GET_DUMPABLE), 1);
    CHECK_INT(status_of(&spawn), 0);
    CHECK_INT(prctl(PR_GET_DUMPABLE), 1);
}

int main(void)
{
    int refusals[] = {ENOSYS, EPERM};
    need_user_namespaces();
    CHECK_INT(forked(in_every_way, NULL), 0);
    for (size_t i = 0; i < COUNT(refusals); i++)
        CHECK_INT(forked(in_every_way_without_clone3, &refusals[i]), 0);
    CHECK_INT(forked(no_handler_runs_in_a_child, NULL), 0);
    CHECK_INT(forked(no_handler_runs_in_a_child_of_clone, NULL), 0);
    /* The test needs root, because only root may map an id other than its own. */
    if (geteuid() == 0)
        check_in_child(we_stay_dumpable);
    check_no_child_left();
}
