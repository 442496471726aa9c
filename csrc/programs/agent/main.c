/*
 * usernsctl-agent: starts commands in a sandbox for whoever has the other end of descriptor 0. It
 * makes sure first that the kernel is gVisor's; docs/agent.md has what it says and hears.
 *
 * It is the sandbox's first process, or is started beside that one. It needs no libc, so it runs in
 * any root filesystem.
 */
#include "programs/agent/libc.h"
#include "programs/agent/serve.h"
#include "programs/shared/proof.h"

#include <string.h>
#include <unistd.h>

#define NOT_PROVEN 125
#define OUTLIVES "--outlives"

static int complain(const char *text)
{
    return write(STDERR_FILENO, text, strlen(text)) < 0 ? NOT_PROVEN : NOT_PROVEN;
}

int main(int argc, char **argv, char **environment)
{
    (void)environment;
    if (!un_runs_on_gvisor())
        return complain("usernsctl: usernsctl-agent: " UN_NOT_PROVEN "\n");
    agent_split_errno();
    return agent_serve(STDIN_FILENO, true, argc == 2 && !strcmp(argv[1], OUTLIVES));
}
