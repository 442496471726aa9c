#include "base/base.h"
#include "programs/agent/agent.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

/* A uid that is in no id map and owns no file: neither (uid_t)-1, which is not a valid uid, nor
 * 65534, the overflow uid. */
#define NOBODY_ELSE ((uid_t) - 3)

static int raise_permitted(struct un_cap_sets *sets)
{
    for (int i = 0; i < 2; i++)
        sets->data[i].effective = sets->data[i].permitted;
    return un_caps_set(sets);
}

void agent_read_caps(struct agent_caps *caps)
{
    caps->bounding = 0;
    int has = 0;
    for (unsigned long cap = 0; cap < 64 && has >= 0; cap++)
        if ((has = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) > 0)
            caps->bounding |= UINT64_C(1) << cap;
}

bool agent_switch_to_unused_uid(void)
{
    struct un_cap_sets sets;
    if (un_caps_get(&sets) || !(sets.data[0].effective >> CAP_SETUID & 1) ||
        prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) ||
        syscall(SYS_setresuid, NOBODY_ELSE, NOBODY_ELSE, NOBODY_ELSE))
        return false;
    return !raise_permitted(&sets);
}

uid_t agent_set_effective_uid(uid_t uid)
{
    uid_t own = (uid_t)syscall(SYS_geteuid);
    syscall(SYS_setresuid, -1, uid, -1);
    return own;
}

void agent_restore_uid(uid_t own)
{
    struct un_cap_sets sets;
    syscall(SYS_setresuid, -1, own, -1);
    /* Raise the effective capabilities again: the kernel clears them when the effective uid changes
     * from 0 to another value (capabilities(7)). */
    if (!un_caps_get(&sets))
        raise_permitted(&sets);
}

int agent_limit_caps(const struct agent_caps *caps, uint64_t wanted)
{
    return un_caps_drop_bounding(caps->bounding & ~wanted);
}

int agent_set_caps(uint64_t wanted)
{
    struct un_cap_sets sets = {.data = {{0}}};
    for (int i = 0; i < 2; i++)
        sets.data[i].effective = sets.data[i].permitted = (uint32_t)(wanted >> 32 * i);
    return un_caps_set(&sets);
}
