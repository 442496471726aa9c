/*
 * usernsctl-agent starts commands in a sandbox for the host: the process at the other end of the
 * socket that is the agent's descriptor 0. First the agent checks that the kernel is gVisor's.
 * docs/agent.md describes the protocol.
 *
 * The agent is PID 1 of the sandbox, or runs beside another PID 1. It needs no libc from the
 * sandbox, so it runs in any root filesystem.
 */
#include "programs/agent/agent.h"
#include "programs/shared/shared.h"

#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOT_PROVEN 125

#define OUTLIVES "--outlives"
#define OWN_IPC "--own-ipc"
#define OWN_NET "--own-net"
#define LEFTOVERS "--leftovers"
#define FILES "--files" /* option to copy files; must be the first argument */

static bool is_given(char **argv, const char *option)
{
    while (*argv && strcmp(*argv, option))
        argv++;
    return *argv;
}

static int complain_not_gvisor(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
    return NOT_PROVEN;
}

int main(int argc, char **argv, char **environment)
{
    (void)environment;
    if (!un_runs_on_gvisor())
        return complain_not_gvisor("usernsctl: usernsctl-agent: " UN_NOT_PROVEN "\n");
    /* Handle --files before agent_split_errno(), which relies on a small initial stack. Copying a
     * deep directory tree needs a large stack. */
    if (argc > 1 && !strcmp(argv[1], FILES))
        return agent_handle_files(argv + 2);
    agent_split_errno();
    if (is_given(argv, LEFTOVERS))
        return !agent_print_leftovers();
    int kinds = is_given(argv, OWN_IPC) ? CLONE_NEWIPC : 0;
    kinds |= is_given(argv, OWN_NET) ? CLONE_NEWNET : 0;
    if (kinds && syscall(SYS_unshare, kinds))
        return complain_not_gvisor(
            "usernsctl: usernsctl-agent: can't create its own namespaces in gVisor\n");
    return agent_serve(STDIN_FILENO, true, is_given(argv, OUTLIVES));
}
