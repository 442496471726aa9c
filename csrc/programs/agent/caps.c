#include "programs/agent/caps.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int agent_limit_caps(uint64_t caps)
{
    for (unsigned long cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (!(caps >> cap & 1) && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 &&
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
            return -1;
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
}

int agent_set_caps(uint64_t caps)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].permitted = data[i].inheritable = (uint32_t)(caps >> 32 * i);
    return (int)syscall(SYS_capset, &header, data);
}
