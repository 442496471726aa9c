/* Tests of restricting a process to some of the processors on which it may run. */
#include "check.h"
#include "sys/sys.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

static int is_part_of(const cpu_set_t *part, const cpu_set_t *all)
{
    cpu_set_t both;
    CPU_AND(&both, part, all);
    return CPU_EQUAL(&both, part);
}

static void a_child_uses(uint64_t count, uint64_t want)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        cpu_set_t before, after;
        CHECK_INT(sched_getaffinity(0, sizeof before, &before), 0);
        un_use_processors(count);
        CHECK_INT(sched_getaffinity(0, sizeof after, &after), 0);
        CHECK_INT(CPU_COUNT(&after), (long long)want);
        CHECK(is_part_of(&after, &before));
        CHECK(un_processors() == want);
        _exit(0);
    }
    CHECK(child > 0);
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
}

int main(void)
{
    cpu_set_t all;
    CHECK_INT(sched_getaffinity(0, sizeof all, &all), 0);
    uint64_t count = (uint64_t)CPU_COUNT(&all);
    CHECK(un_processors() == count);
    a_child_uses(1, 1);
    a_child_uses(count, count);
    a_child_uses(count + 1, count);
    a_child_uses(UINT64_MAX, count);
    /* An empty set of processors is rejected, and the affinity stays as it was. */
    a_child_uses(0, count);
}
