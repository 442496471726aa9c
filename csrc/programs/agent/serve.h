/* What the agent does all the time. */
#ifndef USERNSCTL_PROGRAMS_AGENT_SERVE_H
#define USERNSCTL_PROGRAMS_AGENT_SERVE_H

/* Serves the host on `control` until that ends, or SIGTERM has come and no command is left: the
 * exit status. */
int agent_serve(int control);

#endif
