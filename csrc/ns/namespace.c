/* Creating namespaces and moving this process into them. */
#include "base/base.h"
#include "ns/ns.h"
#include "sys/sys.h"

#include <sched.h>
#include <sys/stat.h>
#include <time.h>

/* Timeout of wait_until_open() in microseconds. The process that keeps the new namespaces alive
 * makes only one or two system calls between closing its socket and becoming dumpable. */
#define DUMPABLE_TIMEOUT_US 10000000
/* wait_until_open() doubles the interval between its checks after each check, as long as the
 * interval is shorter than this, in microseconds. */
#define NAP_DOUBLED_BELOW_US 1000

/*
 * Waits until the holder, the process that keeps the new namespaces alive, is dumpable. Only then
 * can newuidmap, which runs with the caller's ids, write the uid_map of the holder.
 *
 * The holder can't send a message, because it has already closed all its descriptors. But when the
 * holder becomes dumpable, the caller becomes the owner of its uid_map (proc_pid(5)). Before that,
 * a procfs that is mounted with hidepid hides the file (ENOENT).
 */
static int wait_until_open(int dir, int pidfd, struct un_error *err)
{
    struct stat file;
    long nap = 20;
    int errnum = 0;
    const uid_t own = geteuid();
    for (long waited = 0; waited < DUMPABLE_TIMEOUT_US; waited += nap) {
        bool is_there = !fstatat(dir, "uid_map", &file, 0);
        errnum = is_there ? EACCES : errno;
        if (is_there && file.st_uid == own)
            return 0;
        if (un_wait_readable(pidfd, 0) > 0)
            return un_fail_ended(pidfd, err);
        nanosleep(&(struct timespec){.tv_nsec = nap * 1000}, NULL);
        nap = nap < NAP_DOUBLED_BELOW_US ? nap * 2 : nap;
    }
    errno = errnum;
    return un_fail_errno(err, UN_STEP_UID_MAP, "uid_map");
}

/* Receives descriptors from the process that keeps the new namespaces alive: its /proc directory,
 * and the namespaces in `flags`. */
static int receive_namespaces(const struct un_start *start, uint64_t flags, int *dir,
                              struct un_namespace *ns, struct un_error *err)
{
    struct un_received received;
    size_t taken = 1;
    int got = un_receive_message(start, &received, err);
    if (got < 0)
        return -1;
    if (got == 0)
        return un_fail_ended(start->pidfd, err);
    if (received.message.type == UN_MESSAGE_HOLDING && received.fd_count) {
        *dir = received.fd[0];
        for (int kind = 0; kind < UN_NS_COUNT; kind++)
            if (flags & un_ns_flag(kind) && taken < received.fd_count)
                ns->fd[kind] = received.fd[taken++];
    } else {
        taken = 0;
    }
    un_close_each(received.fd + taken, received.fd_count - taken);
    if (received.message.type == UN_MESSAGE_FAILED)
        return un_received_failure(&received, err);
    if (!taken || un_receive_message(start, &received, err))
        return un_fail(err, UN_STEP_CLONE, EPROTO, NULL,
                       "invalid message from the process that holds the namespace");
    return 0;
}

static int hold_and_map(struct un_start *start, const struct un_plan *plan, uint64_t flags,
                        struct un_namespace *ns, struct un_error *err)
{
    int dir = -1;
    int failed = receive_namespaces(start, flags, &dir, ns, err) ||
                 wait_until_open(dir, start->pidfd, err) || un_write_maps(dir, plan, err) ||
                 un_run_helpers(dir, plan, err) || un_verify_maps(dir, plan, err);
    un_close_quietly(dir);
    return failed ? -1 : 0;
}

static int create(const struct un_plan *plan, uint64_t flags, struct un_start *start,
                  struct un_namespace *ns, struct un_error *err)
{
    struct un_task task;
    un_task_init(&task);
    task.holds = true;
    task.flags = flags;
    task.fd[UN_TASK_PARENT] = un_pidfd_open(getpid());
    if (task.fd[UN_TASK_PARENT] < 0)
        return un_fail_errno(err, UN_STEP_CLONE, "pidfd_open");
    int failed = un_start_child(start, &task, err);
    close(task.fd[UN_TASK_PARENT]);
    if (failed)
        return -1;
    failed = hold_and_map(start, plan, flags, ns, err);
    close(start->socket);
    un_end_child(start);
    if (failed)
        un_namespace_close(ns);
    return failed;
}

int un_namespace_create(const struct un_plan *plan, uint64_t flags, const char *child,
                        struct un_namespace *ns, struct un_error *err)
{
    struct un_start start = {
        .program = child,
        .cgroup = -1,
        .timeout_ms = UN_START_TIMEOUT_MS,
        .is_empty = true,
    };
    memset(ns->fd, 0xff, sizeof ns->fd);
    if (flags & CLONE_NEWPID)
        return un_fail(err, UN_STEP_ARGUMENT, EINVAL, NULL,
                       "a PID namespace can't outlive its PID 1");
    int cancel = un_forbid_cancel();
    int failed = create(plan, flags | CLONE_NEWUSER, &start, ns, err);
    un_restore_cancel(cancel);
    return failed;
}

/* Sets the error for a process with several threads: in such a process, unshare(2) with
 * CLONE_NEWUSER fails with EINVAL. */
static int fail_multithreaded(int threads, struct un_error *err)
{
    return un_fail(err, UN_STEP_UNSHARE, EINVAL, "multithreaded", "this process has %d threads",
                   threads);
}

static int enter_and_write(const struct un_plan *plan, uint64_t flags, struct un_error *err)
{
    struct un_own_maps maps;
    un_auto_free char(*text)[UN_MAP_TEXT_MAX] = calloc(2, sizeof *text);
    if (!text)
        return un_fail_errno(err, UN_STEP_UID_MAP, "can't store the id maps");
    un_own_maps_of(plan, text, &maps);
    if (un_hide_process(err))
        return -1;
    int failed = un_make_and_map(flags | CLONE_NEWUSER, &maps, err);
    if (!failed || err->step != UN_STEP_UNSHARE || err->errnum != EINVAL)
        return failed;
    int threads = un_thread_count();
    return threads > 1 ? fail_multithreaded(threads, err) : failed;
}

/* Makes the child program create the user namespace, joins it, and then creates the other
 * namespaces in `flags`. */
static int create_and_join(const struct un_plan *plan, uint64_t flags, const char *child,
                           struct un_error *err)
{
    struct un_namespace ns;
    /* Check the number of threads first. Otherwise setns(2) would fail with EINVAL for the same
     * reason, but only after the namespace has been created. */
    int threads = un_thread_count();
    if (threads > 1)
        return fail_multithreaded(threads, err);
    if (un_namespace_create(plan, 0, child, &ns, err))
        return -1;
    int failed = un_namespace_join(&ns, err);
    un_namespace_close(&ns);
    if (failed)
        return -1;
    if (!flags || !unshare((int)flags))
        return 0;
    un_fail_errno(err, UN_STEP_UNSHARE, "");
    /* The reached limit is that of an outer user namespace: the new user namespace owns no mount
     * namespace yet. */
    if (err->errnum == ENOSPC && flags == CLONE_NEWNS)
        err->cause = "max-mnt-namespaces";
    return -1;
}

int un_enter(const struct un_plan *plan, uint64_t flags, const char *child, bool is_private,
             struct un_error *err)
{
    if ((plan || flags) && un_filter_forbids(&un_enter_calls, err))
        return -1;
    if (plan && !is_private && un_plan_writes_itself(plan))
        return enter_and_write(plan, flags, err);
    if (plan)
        return create_and_join(plan, flags, child, err);
    if (flags && unshare((int)flags))
        return un_fail_errno(err, UN_STEP_UNSHARE, "");
    return 0;
}
