/* Internal: how often a limit of our control group has been hit. */
#ifndef USERNSCTL_EXPLAIN_LIMITS_H
#define USERNSCTL_EXPLAIN_LIMITS_H

#include <stdint.h>

enum un_limit {
    UN_LIMIT_MEMORY, /* a process was killed since memory ran out */
    UN_LIMIT_PIDS,   /* a fork was refused since there were pids.max processes */
    UN_LIMIT_COUNT
};

/* How often that has ever happened to our control group (cgroups(7)), of whichever version; 0 where
 * the kernel does not tell. */
uint64_t un_limit_hits(enum un_limit limit);

/* The cause that a process ends of which a limit has hit (un_cause_find). */
const char *un_limit_cause(enum un_limit limit);

#endif
