/* Signals that come before somebody can pass them on. */
#ifndef USERNSCTL_SHARED_EARLY_SIGNALS_H
#define USERNSCTL_SHARED_EARLY_SIGNALS_H

/*
 * The first process of a container never gets a signal that it neither handles nor blocks. What is
 * blocked waits until the watcher can pass it on; else docker stop, come early, would be lost.
 * Returns 0, or -1 with errno.
 */
int keep_early_signals(void);

#endif
