#include "programs/agent/agent.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A user that no map of ids has, and that no file belongs to: (uid_t)-1 is no user, and who is not
 * mapped is 65534. */
#define NOBODY_ELSE ((uid_t) - 3)

struct sets {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

static int read_sets(struct sets *sets)
{
    sets->header = (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
    return (int)syscall(SYS_capget, &sets->header, sets->data);
}

void agent_read_caps(struct agent_caps *caps)
{
    caps->bounding = 0;
    int has = 0;
    for (unsigned long cap = 0; cap < 64 && has >= 0; cap++)
        if ((has = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) > 0)
            caps->bounding |= UINT64_C(1) << cap;
}

bool agent_become_nobody(void)
{
    struct sets sets;
    if (read_sets(&sets) || !(sets.data[0].effective >> CAP_SETUID & 1) ||
        prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) ||
        syscall(SYS_setresuid, NOBODY_ELSE, NOBODY_ELSE, NOBODY_ELSE))
        return false;
    for (int i = 0; i < 2; i++)
        sets.data[i].effective = sets.data[i].permitted;
    return !syscall(SYS_capset, &sets.header, sets.data);
}

uid_t agent_borrow_uid(uid_t uid)
{
    uid_t own = (uid_t)syscall(SYS_geteuid);
    syscall(SYS_setresuid, -1, uid, -1);
    return own;
}

void agent_return_uid(uid_t own)
{
    struct sets sets;
    syscall(SYS_setresuid, -1, own, -1);
    /* Who was root for that has none in effect any more. */
    if (read_sets(&sets))
        return;
    for (int i = 0; i < 2; i++)
        sets.data[i].effective = sets.data[i].permitted;
    syscall(SYS_capset, &sets.header, sets.data);
}

int agent_limit_caps(const struct agent_caps *caps, uint64_t wanted)
{
    uint64_t dropped = caps->bounding & ~wanted;
    for (unsigned long cap = 0; dropped >> cap; cap++) {
        if (dropped >> cap & 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
            return -1;
        if (cap == 63)
            break;
    }
    return 0;
}

int agent_set_caps(uint64_t wanted)
{
    struct sets sets = {.header = {_LINUX_CAPABILITY_VERSION_3, 0}};
    for (int i = 0; i < 2; i++)
        sets.data[i].effective = sets.data[i].permitted = (uint32_t)(wanted >> 32 * i);
    return (int)syscall(SYS_capset, &sets.header, sets.data);
}
