#include "base/base.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

int un_caps_get(struct un_cap_sets *sets)
{
    sets->header = (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
    return (int)syscall(SYS_capget, &sets->header, sets->data);
}

int un_caps_set(struct un_cap_sets *sets)
{
    sets->header = (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
    return (int)syscall(SYS_capset, &sets->header, sets->data);
}

int un_caps_effective(uint64_t *caps)
{
    struct un_cap_sets sets;
    if (un_caps_get(&sets))
        return -1;
    *caps = sets.data[0].effective | (uint64_t)sets.data[1].effective << 32;
    return 0;
}

int un_caps_drop_bounding(uint64_t dropped)
{
    for (unsigned long cap = 0; cap < 64; cap++)
        if (dropped >> cap & 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
            return -1;
    return 0;
}

int un_caps_keep(void)
{
    struct un_cap_sets sets;
    if (un_caps_get(&sets))
        return -1;
    for (int i = 0; i < 2; i++)
        sets.data[i].inheritable = sets.data[i].permitted;
    if (un_caps_set(&sets))
        return -1;
    uint64_t permitted = sets.data[0].permitted | (uint64_t)sets.data[1].permitted << 32;
    for (unsigned long cap = 0; cap < 64; cap++)
        if (permitted >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0))
            return -1;
    return 0;
}
