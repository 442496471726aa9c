/* Small facts that tell one cause of an errno from another. Internal. */
#ifndef USERNSCTL_BASE_PROCFILE_H
#define USERNSCTL_BASE_PROCFILE_H

#include "include/usernsctl.h"

/* Reads a number from a file below `proc`, such as "sys/user/max_user_namespaces"; -1: there is
 * none. */
int64_t un_proc_number(const char *proc, const char *file);
/* The number in the line of PROC/self/status that begins with `key`, such as "Seccomp:"; -1: none.
 */
int64_t un_proc_status(const char *proc, const char *key);
/* Whether PROC/self/mountinfo has a mount whose mount point is `point`, or, with `below`, one below
 * it that hides something. */
bool un_proc_has_mount(const char *proc, const char *point, bool below);
/* Returns whether this process and process 1 have the same root directory. Each sees the mount
 * points as they are below its own: so a chroot into a mount point shows, too. */
bool un_proc_shares_root(const char *proc);

/* Whether a mount of proc hides the processes of others (proc(5), hidepid). */
bool un_proc_hides(const char *proc);

/* The label that AppArmor has for a process, such as "unconfined" or "NAME (enforce)"; `who` is
 * "self" or a number. False: AppArmor has none, or it can't be read. */
bool un_proc_apparmor(const char *proc, const char *who, char *label, size_t size);

/* Our place in a hierarchy of control groups, such as "/a/b" (cgroups(7), PROC/self/cgroup): of
 * the one in version 1 that this controller alone has, or, for "", of version 2. In a container
 * the path may be that of the host. False: there is none. */
bool un_proc_cgroup(const char *proc, const char *controller, char *path, size_t size);

#endif
