/* Whose files may lead us anywhere, where root has no id: all others who have none show the same.
 */
#include "forked.h"
#include "inside.h"
#include "needs.h"

#include "launch/follow.h"

#include <sys/prctl.h>

static int only_its_own_places_are_roots(void *arg)
{
    static const char *const trusted[] = {
        "/", "/bin", "/tmp", "/usr/lib/x", "/etc/alternatives/x", "/var/tmp", "/run/user",
    };
    static const char *const others[] = {
        "/tmp/x", "/home/user", "/var/tmp/x", "/run/user/1000", "/opt/x",
    };
    struct stat root;
    (void)arg;
    if (geteuid() == 0) {
        CHECK_INT(setresuid(12345, 12345, 12345), 0);
        CHECK_INT(prctl(PR_SET_DUMPABLE, 1), 0);
    }
    enter_inside();
    CHECK_INT(stat("/", &root), 0);
    CHECK(root.st_uid != 0);
    for (size_t i = 0; i < COUNT(trusted); i++)
        CHECK(un_owner_is_trusted(root.st_uid, trusted[i]));
    for (size_t i = 0; i < COUNT(others); i++)
        CHECK(!un_owner_is_trusted(root.st_uid, others[i]));
    CHECK(un_owner_is_trusted(0, "/opt/x"));
    CHECK(!un_owner_is_trusted(12345, "/etc/x"));
    return 0;
}

int main(void)
{
    need_user_namespaces();
    CHECK_INT(forked(only_its_own_places_are_roots, NULL), 0);
    check_no_child_left();
    return 0;
}
