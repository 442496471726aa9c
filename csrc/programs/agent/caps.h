/* Which capabilities a command gets. */
#ifndef USERNSCTL_PROGRAMS_AGENT_CAPS_H
#define USERNSCTL_PROGRAMS_AGENT_CAPS_H

#include <stdint.h>

/* Before the ids change: takes all others from the bounding set as far as we may, so that no
 * program gives them back. -1 with errno. */
int agent_limit_caps(uint64_t caps);

/* Afterwards: exactly these, also across exec. -1 with errno. */
int agent_set_caps(uint64_t caps);

#endif
