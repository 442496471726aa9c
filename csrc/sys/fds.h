#ifndef USERNSCTL_SYS_FDS_H
#define USERNSCTL_SYS_FDS_H

#include "include/usernsctl.h"

/* Makes stdio[0..2] descriptors 0 to 2; -1 leaves one as it is. Async-signal-safe. */
int un_place_stdio(const int stdio[3], struct un_error *err);
/* Closes each of them that is one, and those that have numbers in a row by one call.
 * Async-signal-safe. */
void un_close_each(const int *fd, size_t count);
/* As un_close_fds(), but they are closed by the next exec. Async-signal-safe. */
int un_close_fds_at_exec(const int *keep, size_t keep_count, struct un_error *err);
/* All of them. Async-signal-safe. */
void un_close_all_fds_at_exec(void);
/* Gives this process, and who comes from it by fork and exec, a table that has room for 512
 * descriptors from the start, by a descriptor of no use at its end. Where a process has threads,
 * the kernel lets it wait for a grace period (10 ms and more) when its table grows; gVisor's
 * sandbox puts the command's streams above 255, and closes all that it was not given. If there may
 * not be so many, all stays as it is. Async-signal-safe. */
void un_make_fd_room(void);

#endif
