/* What the agent does all the time. */
#ifndef USERNSCTL_PROGRAMS_AGENT_SERVE_H
#define USERNSCTL_PROGRAMS_AGENT_SERVE_H

#include <stdbool.h>

/*
 * Serves the host on `control` until that ends, or SIGTERM has come and no command is left: the
 * exit status. Keepers share our memory, which makes them cheap, where `shares` says that our libc
 * can live with that.
 */
int agent_serve(int control, bool shares);

#endif
