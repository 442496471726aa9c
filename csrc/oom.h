/* Internal: what the kernel killed for want of memory. */
#ifndef USERNSCTL_OOM_H
#define USERNSCTL_OOM_H

#include <stdint.h>

/*
 * How many processes of our control group the kernel has ever killed since memory ran out: the
 * field oom_kill of memory.events (cgroup v2) or memory.oom_control (v1). 0 where it does not tell.
 */
uint64_t un_oom_kills(void);

#endif
