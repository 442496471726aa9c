#include "programs/agent/agent.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Ignores SIGXFSZ, so that a write beyond RLIMIT_FSIZE fails with EFBIG instead of killing this
 * process. */
static void ignore_size_signal(void)
{
    /* struct sigaction of the kernel: handler, flags, restorer, mask */
    const void *const action[] = {(const void *)SIG_IGN, NULL, NULL, NULL};
    syscall(SYS_rt_sigaction, SIGXFSZ, action, NULL, 8);
}

static bool has_option(char **argv, const char *option)
{
    for (; *argv; argv++)
        if (!strcmp(*argv, option))
            return true;
    return false;
}

int agent_handle_files(char **argv)
{
    static const char *const sendings[] = {
        [AGENT_SEND_TREE] = "get", [AGENT_SEND_FILE] = "read", [AGENT_SEND_ENTRIES] = "list"};
    const char *verb = argv[0], *path = verb ? argv[1] : NULL;
    if (!path || *path != '/')
        return 1;
    ignore_size_signal();
    /* Set the umask to 0, so that files are created with their final modes. This saves a system
     * call per file. */
    umask(0);
    for (size_t i = 0; i < sizeof sendings / sizeof *sendings; i++)
        if (!strcmp(verb, sendings[i]))
            return !agent_copy_out(STDOUT_FILENO, path, (enum agent_sending)i);
    const struct agent_copying how = {
        .input = STDIN_FILENO,
        .output = STDOUT_FILENO,
        .path = path,
        .parents = has_option(argv + 2, "--parents"),
        .merges = has_option(argv + 2, "--merge"),
    };
    if (!strcmp(verb, "put"))
        return !agent_copy_in(&how);
    return strcmp(verb, "write") ? 1 : !agent_write_file(&how);
}
