/* The types of namespaces, and how to join them. */
#include "base/base.h"
#include "sys/sys.h"

#include <sched.h>

static const struct {
    uint64_t flag;
    const char *file; /* path of the namespace file in /proc/PID */
} kinds[UN_NS_COUNT] = {
    [UN_NS_USER] = {CLONE_NEWUSER, "ns/user"},
    [UN_NS_MOUNT] = {CLONE_NEWNS, "ns/mnt"},
    [UN_NS_NET] = {CLONE_NEWNET, "ns/net"},
    [UN_NS_PID] = {CLONE_NEWPID, "ns/pid"},
    [UN_NS_IPC] = {CLONE_NEWIPC, "ns/ipc"},
    [UN_NS_UTS] = {CLONE_NEWUTS, "ns/uts"},
    [UN_NS_CGROUP] = {CLONE_NEWCGROUP, "ns/cgroup"},
    /* Use the namespace of the children, because a process that creates a time namespace does not
     * enter the time namespace itself. */
    [UN_NS_TIME] = {CLONE_NEWTIME, "ns/time_for_children"},
};

uint64_t un_ns_flag(int ns)
{
    return kinds[ns].flag;
}

const char *un_ns_file(int ns)
{
    return kinds[ns].file;
}

int un_namespace_join_one(int fd, int ns, struct un_error *err)
{
    if (fd < 0)
        return 0;
    if (setns(fd, (int)kinds[ns].flag))
        return un_fail_errno(err, UN_STEP_SETNS, kinds[ns].file);
    return un_hide_process(err);
}

int un_namespace_join(const struct un_namespace *ns, struct un_error *err)
{
    if (un_filter_forbids(&un_join_calls, err) || un_hide_process(err))
        return -1;
    /* Join the user namespace first, because joining it grants the capabilities that setns(2)
     * requires for the other namespaces. */
    for (int kind = 0; kind < UN_NS_COUNT; kind++)
        if (un_namespace_join_one(ns->fd[kind], kind, err))
            return -1;
    return 0;
}

void un_namespace_close(struct un_namespace *ns)
{
    un_close_each(ns->fd, UN_NS_COUNT);
    memset(ns->fd, 0xff, sizeof ns->fd);
}
