/* Tests of un_group_sweep(), which removes the control groups of sandboxes that have ended.
 * Ordinary directories, which can also be locked (flock(2)), take the place of control groups. */
#include "check.h"
#include "facts/facts.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define NAME UN_GROUP_PREFIX "0123"

static int place;
static bool is_replaced; /* whether the next call of flock() replaces the control group by a new one
                            of the same name */

int flock(int fd, int operation)
{
    if (is_replaced) {
        CHECK_INT(renameat(place, NAME, place, "removed"), 0);
        CHECK_INT(mkdirat(place, NAME, 0700), 0);
    }
    is_replaced = false;
    return (int)syscall(SYS_flock, fd, operation);
}

static bool exists(void)
{
    return !faccessat(place, NAME, F_OK, 0);
}

static void an_unlocked_group_is_removed(void)
{
    CHECK_INT(mkdirat(place, NAME, 0700), 0);
    un_group_sweep(place);
    CHECK(!exists());
}

static void a_locked_group_is_not_removed(void)
{
    CHECK_INT(mkdirat(place, NAME, 0700), 0);
    int group = openat(place, NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_INT(flock(group, LOCK_EX), 0);
    un_group_sweep(place);
    CHECK(exists());
    close(group);
    un_group_sweep(place);
    CHECK(!exists());
}

/* Checks that a control group is not removed if it has replaced the group that was locked. A
 * starting sandbox creates such a group, with the same name, if its first group was removed. */
static void a_replacing_group_is_not_removed(void)
{
    CHECK_INT(mkdirat(place, NAME, 0700), 0);
    is_replaced = true;
    un_group_sweep(place);
    CHECK(!is_replaced);
    CHECK(exists());
    CHECK_INT(unlinkat(place, NAME, AT_REMOVEDIR), 0);
    CHECK_INT(unlinkat(place, "removed", AT_REMOVEDIR), 0);
}

int main(void)
{
    char top[] = "/tmp/usernsctl-test-XXXXXX";
    CHECK(mkdtemp(top) != NULL);
    place = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(place >= 0);
    an_unlocked_group_is_removed();
    a_locked_group_is_not_removed();
    a_replacing_group_is_not_removed();
    close(place);
    CHECK_INT(rmdir(top), 0);
}
