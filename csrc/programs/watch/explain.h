/* Why runsc failed. Internal. */
#ifndef USERNSCTL_WATCH_EXPLAIN_H
#define USERNSCTL_WATCH_EXPLAIN_H

/*
 * Says on standard error why runsc failed that ended with `status`, which it may have done as the
 * command did: nothing is said then. `files` are the paths of its errors, its report of a crash,
 * its debug log, and the bundle. `limit` is the cause of which a limit was hit meanwhile, or "".
 * Returns the exit status that is ours.
 */
int explain_runsc(char *const *files, int status, const char *limit);

#endif
