/* Capabilities, by the bare system calls: libcap would be a dependency of the prelude. Internal. */
#ifndef USERNSCTL_BASE_CAPS_H
#define USERNSCTL_BASE_CAPS_H

#include "include/usernsctl.h"

#include <linux/capability.h>

/* The effective capabilities of this thread, bit N for capability N. -1 with errno. */
int un_caps_effective(uint64_t *caps);

/* Makes every permitted capability inheritable and ambient, so that exec keeps it (Linux 4.3,
 * capabilities(7)). -1 with errno. Async-signal-safe. */
int un_caps_keep(void);

#endif
