/* Internal. */
#ifndef USERNSCTL_SYS_BARRIER_H
#define USERNSCTL_SYS_BARRIER_H

/* From now on this process, and all that come from it, do not register for private expedited memory
 * barriers (membarrier(2)): the kernel answers that they are, and does nothing. To ask for such a
 * barrier is EPERM then, as it is for all who have not registered. For runsc alone, see barrier.c;
 * where the kernel does not take the filter, all stays as it is. Async-signal-safe. */
void un_forgo_barrier(void);

#endif
