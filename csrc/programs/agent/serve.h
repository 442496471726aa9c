/* What the agent does all the time. */
#ifndef USERNSCTL_PROGRAMS_AGENT_SERVE_H
#define USERNSCTL_PROGRAMS_AGENT_SERVE_H

#include <stdbool.h>

/*
 * Serves the host on `control` until that ends, or SIGTERM has come and no command is left: the
 * exit status. `is_inside` says that we are the program, in a sandbox: then keepers share our
 * memory, which makes them cheap, and which our libc can live with; and all that runs here may be
 * stopped. With `outlives`, process 1 goes on when `control` has ended.
 */
int agent_serve(int control, bool is_inside, bool outlives);

#endif
