/* Which capabilities the agent has, and a command gets. */
#ifndef USERNSCTL_PROGRAMS_AGENT_CAPS_H
#define USERNSCTL_PROGRAMS_AGENT_CAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct agent_caps {
    uint64_t bounding;
};

/* What the caller has. */
void agent_read_caps(struct agent_caps *caps);

/* Has the caller be a user that nobody else is, and keep what it is capable of: whoever may not
 * signal just anybody (CAP_KILL) can't signal it. False: it may not, and is who it was. */
bool agent_become_nobody(void);

/* Does what follows as another user, as far as files are concerned: who could signal us still can,
 * and nobody else. Returns what to give back. */
uid_t agent_borrow_uid(uid_t uid);
void agent_return_uid(uid_t own);

/* In a child of it, before its ids change: takes all but `wanted` from the bounding set, so that no
 * program gives them back. -1 with errno. */
int agent_limit_caps(const struct agent_caps *caps, uint64_t wanted);

/* Afterwards: exactly these, and none is inheritable. -1 with errno. */
int agent_set_caps(uint64_t wanted);

#endif
