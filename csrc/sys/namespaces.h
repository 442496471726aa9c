/* The kinds of namespaces, and going into them. Internal. */
#ifndef USERNSCTL_SYS_NAMESPACES_H
#define USERNSCTL_SYS_NAMESPACES_H

#include "include/usernsctl.h"

#include <sched.h>

/* Since Linux 5.6; younger than some libcs. */
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* The file of a namespace in /proc/PID, such as "ns/user". */
const char *un_ns_file(int ns);

/* Joins the namespace of the kind `ns` that a descriptor refers to; -1: there is nothing to join.
 * The process must be hidden, and stays so. Async-signal-safe. */
int un_namespace_join_one(int fd, int ns, struct un_error *err);

#endif
