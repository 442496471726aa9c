/* The parts of usernsctl-watch. Internal. */
#ifndef USERNSCTL_PROGRAMS_WATCH_H
#define USERNSCTL_PROGRAMS_WATCH_H

/* The files that are handed over: paths of runsc's errors, its report of a crash, its debug log,
 * and the bundle. */
enum { ERRORS, CRASH, DEBUG, BUNDLE, FILES };

/*
 * Says on standard error why runsc failed that ended with `status`, unless its log says that it
 * came to its end, and so that the status is the command's: nothing is said then. `limit` is the
 * cause of which a limit was hit meanwhile, or "". Returns the exit status that is ours.
 */
int explain_runsc(char *const *files, int status, const char *limit);

/* Says to the process that waits that what comes is told already: there is no runsc that could. */
void explain_no_more(char *const *files);

#endif
