/* The parts of usernsctl-watch. Internal. */
#ifndef USERNSCTL_PROGRAMS_WATCH_H
#define USERNSCTL_PROGRAMS_WATCH_H

/* Files in the arguments: paths of runsc's error log, crash report and debug log, and of the
 * bundle. */
enum { ERRORS, CRASH, DEBUG, BUNDLE, FILES };

/*
 * Reports on standard error why runsc failed with `status`. Prints nothing if runsc's log shows a
 * normal exit, so that the status is the command's. `limit` is the id of the cause of a limit that
 * was exceeded meanwhile, or "". Returns the exit status of the watcher.
 */
int explain_runsc(char *const *files, int status, const char *limit);

/* Called in the child if runsc can't be executed, which the child reports itself: explain_runsc()
 * in the watcher then prints nothing. */
void explain_no_more(char *const *files);

#endif
