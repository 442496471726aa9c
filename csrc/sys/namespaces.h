/* The kinds of namespaces, and going into them. Internal. */
#ifndef USERNSCTL_SYS_NAMESPACES_H
#define USERNSCTL_SYS_NAMESPACES_H

#include "include/usernsctl.h"

/* The file of a namespace in /proc/PID, such as "ns/user". */
const char *un_ns_file(int ns);

/* Joins the namespace of the kind `ns` that a descriptor refers to; -1: there is nothing to join.
 * The process must be hidden, and stays so. Async-signal-safe. */
int un_namespace_join_one(int fd, int ns, struct un_error *err);

/* Makes this process one that only who has CAP_SYS_PTRACE in the user namespace that it was
 * executed in may look into, until it executes something (PR_SET_DUMPABLE(2const)). A change of
 * credentials may undo it (/proc/sys/fs/suid_dumpable). Async-signal-safe. */
void un_hide_process(void);

#endif
