/* Tests of creating namespaces with the planned maps, keeping them alive, and joining them. */
#include "check.h"
#include "forked.h"
#include "needs.h"
#include "spawned.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

static struct un_plan plan;
static struct un_error err;

static ino_t inode_of(const char *path)
{
    struct stat file;
    CHECK_INT(stat(path, &file), 0);
    return file.st_ino;
}

static int open_count(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void check_maps_are(const struct un_plan *plan)
{
    static const char *const names[] = {[UN_UID] = "uid_map", [UN_GID] = "gid_map"};
    static struct un_map map;
    static char got[UN_MAP_TEXT_MAX], planned[UN_MAP_TEXT_MAX];
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(self >= 0);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        CHECK_OK(un_map_read(self, names[kind], &map, &err), &err);
        un_map_format(&map, got);
        un_map_format(&plan->map.of[kind], planned);
        CHECK_TEXT(got, planned);
    }
    close(self);
}

static void check_setgroups_is(const char *want)
{
    char text[16] = "";
    int fd = open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    text[strcspn(text, "\n")] = '\0';
    CHECK_TEXT(text, want);
}

static void entering_moves_this_process(void)
{
    ino_t user = inode_of("/proc/self/ns/user"), uts = inode_of("/proc/self/ns/uts");
    ino_t ipc = inode_of("/proc/self/ns/ipc");
    int before = open_count();
    plan_own_ids(0, 0, &plan);
    CHECK_OK(un_enter(&plan, un_ns_flag(UN_NS_UTS), child_program(), false, &err), &err);
    CHECK(inode_of("/proc/self/ns/user") != user);
    CHECK(inode_of("/proc/self/ns/uts") != uts);
    CHECK_INT((long long)inode_of("/proc/self/ns/ipc"), (long long)ipc);
    check_maps_are(&plan);
    check_setgroups_is("deny");
    CHECK_INT(geteuid(), 0);
    CHECK_INT(getegid(), 0);
    CHECK_INT(open_count(), before);
    check_no_child_left();
}

static void without_a_plan_no_user_namespace_is_made(void)
{
    plan_own_ids(0, 0, &plan);
    CHECK_OK(un_enter(&plan, 0, child_program(), false, &err), &err);
    ino_t user = inode_of("/proc/self/ns/user"), uts = inode_of("/proc/self/ns/uts");
    CHECK_OK(un_enter(NULL, un_ns_flag(UN_NS_UTS), child_program(), false, &err), &err);
    CHECK_INT((long long)inode_of("/proc/self/ns/user"), (long long)user);
    CHECK(inode_of("/proc/self/ns/uts") != uts);
}

/* Checks maps of two ids each, which another process must write. The test needs root, because only
 * root may write such maps without a helper. */
static void a_range_is_written_from_outside(void)
{
    static struct un_request request;
    static struct un_facts facts;
    static struct un_plan plan;
    CHECK_OK(un_facts_read(&facts, &err), &err);
    CHECK_OK(un_facts_read_parents(&facts, &err), &err);
    request.id[UN_UID].more = (struct un_map){1, {{0, 0, 2}}};
    request.id[UN_GID].more = (struct un_map){1, {{0, 0, 2}}};
    request.setgroups = UN_SETGROUPS_ALLOW;
    CHECK_OK(un_plan_make(&request, &facts, &plan, &err), &err);
    CHECK(!un_plan_writes_itself(&plan));
    int before = open_count();
    CHECK_OK(un_enter(&plan, un_ns_flag(UN_NS_UTS), child_program(), false, &err), &err);
    check_maps_are(&plan);
    check_setgroups_is("allow");
    CHECK_INT(open_count(), before);
    check_no_child_left();
}

static void a_namespace_descriptor_outlives_its_holder(void)
{
    struct un_namespace ns;
    struct stat kept;
    plan_own_ids(5, 6, &plan);
    CHECK_OK(un_namespace_create(&plan, un_ns_flag(UN_NS_UTS), child_program(), &ns, &err), &err);
    check_no_child_left();
    for (int kind = 0; kind < UN_NS_COUNT; kind++) {
        bool wanted = kind == UN_NS_USER || kind == UN_NS_UTS;
        CHECK_INT(ns.fd[kind] >= 0, wanted);
        CHECK(!wanted || fcntl(ns.fd[kind], F_GETFD) & FD_CLOEXEC);
    }
    CHECK_OK(un_namespace_join(&ns, &err), &err);
    CHECK_INT(fstat(ns.fd[UN_NS_UTS], &kept), 0);
    CHECK_INT((long long)inode_of("/proc/self/ns/uts"), (long long)kept.st_ino);
    check_maps_are(&plan);
    CHECK_INT(geteuid(), 5);
    CHECK_INT(getegid(), 6);

    int with = open_count();
    un_namespace_close(&ns);
    CHECK_INT(open_count(), with - 2);
    un_namespace_close(&ns);
    CHECK_INT(open_count(), with - 2);
}

static void a_map_that_is_refused_leaves_nothing(void)
{
    struct un_namespace ns;
    int before = open_count();
    plan_own_ids(0, 0, &plan);
    /* Map one id twice, which is invalid. The planner never does that. */
    plan.map.of[UN_UID].len = 2;
    plan.map.of[UN_UID].extent[1] = plan.map.of[UN_UID].extent[0];
    CHECK_INT(un_namespace_create(&plan, 0, child_program(), &ns, &err), -1);
    CHECK_INT(err.step, UN_STEP_UID_MAP);
    CHECK_INT(err.errnum, EINVAL);
    for (int kind = 0; kind < UN_NS_COUNT; kind++)
        CHECK_INT(ns.fd[kind], -1);
    CHECK_INT(open_count(), before);
    check_no_child_left();
}

static void creating_a_pid_namespace_fails(void)
{
    struct un_namespace ns;
    plan_own_ids(0, 0, &plan);
    CHECK_INT(un_namespace_create(&plan, un_ns_flag(UN_NS_PID), child_program(), &ns, &err), -1);
    CHECK_INT(err.step, UN_STEP_ARGUMENT);
    CHECK_INT(err.errnum, EINVAL);
    check_no_child_left();
}

static void ones_own_namespace_can_not_be_joined(void)
{
    struct un_namespace ns;
    for (int kind = 0; kind < UN_NS_COUNT; kind++)
        ns.fd[kind] = -1;
    ns.fd[UN_NS_USER] = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    CHECK(ns.fd[UN_NS_USER] >= 0);
    CHECK_INT(un_namespace_join(&ns, &err), -1);
    CHECK_INT(err.step, UN_STEP_SETNS);
    CHECK_INT(err.errnum, EINVAL);
    CHECK_TEXT(err.detail, "ns/user");
    un_namespace_close(&ns);
}

static void *wait_for_mutex(void *mutex)
{
    pthread_mutex_lock(mutex);
    pthread_mutex_unlock(mutex);
    return NULL;
}

static void a_process_with_threads_can_not_enter(void)
{
    static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
    pthread_t thread;
    plan_own_ids(0, 0, &plan);
    CHECK_INT(un_thread_count(), 1);
    pthread_mutex_lock(&held);
    CHECK_INT(pthread_create(&thread, NULL, wait_for_mutex, &held), 0);
    CHECK_INT(un_thread_count(), 2);
    CHECK_INT(un_enter(&plan, 0, child_program(), false, &err), -1);
    CHECK_TEXT(err.cause, "multithreaded");
    CHECK_INT(err.errnum, EINVAL);
    CHECK_HAS(err.detail, "2 threads");
    pthread_mutex_unlock(&held);
    pthread_join(thread, NULL);
}

/* Checks that the flag of each type of namespace is a single bit, and that no two types have the
 * same flag. */
static void every_namespace_has_its_flag(void)
{
    uint64_t seen = 0;
    for (int kind = 0; kind < UN_NS_COUNT; kind++) {
        uint64_t flag = un_ns_flag(kind);
        CHECK(flag != 0 && (flag & (flag - 1)) == 0);
        CHECK((seen & flag) == 0);
        seen |= flag;
    }
}

int main(void)
{
    every_namespace_has_its_flag();
    need_user_namespaces();
    check_in_child(entering_moves_this_process);
    check_in_child(without_a_plan_no_user_namespace_is_made);
    if (geteuid() == 0)
        check_in_child(a_range_is_written_from_outside);
    check_in_child(a_namespace_descriptor_outlives_its_holder);
    check_in_child(a_map_that_is_refused_leaves_nothing);
    creating_a_pid_namespace_fails();
    check_in_child(ones_own_namespace_can_not_be_joined);
    check_in_child(a_process_with_threads_can_not_enter);
    check_no_child_left();
}
