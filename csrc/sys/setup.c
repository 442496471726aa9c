/* Setting up a process in its namespaces before it executes the command: root and working
 * directory, privileges, ids and parent-death signal. */
#include "base/base.h"
#include "sys/sys.h"

#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

void un_setup_init(struct un_setup *setup)
{
    memset(setup, 0, sizeof *setup);
    setup->group_count = -1;
    setup->gid = -1;
    setup->uid = -1;
    setup->parent_pidfd = -1;
}

static int apply_mount_proc(const struct un_setup *setup, struct un_error *err)
{
    if (!setup->mount_proc)
        return 0;
    /* If the mount point were shared, the new procfs would also be mounted in the caller's mount
     * namespace. */
    if (mount("none", setup->mount_proc, NULL, MS_PRIVATE | MS_REC, NULL) && errno != EINVAL)
        return un_fail_errno(err, UN_STEP_MOUNT, setup->mount_proc);
    if (mount("proc", setup->mount_proc, "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL))
        return un_fail_errno(err, UN_STEP_MOUNT, setup->mount_proc);
    return 0;
}

/* Drops capabilities and installs filters. Must be done before the ids change, because the change
 * may clear the capabilities that are needed here. */
static int apply_restrictions(const struct un_setup *setup, struct un_error *err)
{
    if (un_caps_drop_bounding(setup->drop_bounding))
        return un_fail_errno(err, UN_STEP_CAPABILITIES,
                             "can't drop capabilities from the bounding set");
    if (setup->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return un_fail_errno(err, UN_STEP_CAPABILITIES, "PR_SET_NO_NEW_PRIVS");
    if (setup->no_membarrier)
        un_add_membarrier_filter();
    return 0;
}

/* Fills in the error of a failed change to an id. Formats the id itself, because printf(3) is not
 * async-signal-safe. */
static int fail_change(enum un_step step, const char *kind, int64_t id, struct un_error *err)
{
    char text[sizeof "uid 4294967295"];
    strcpy(text, kind);
    un_number_write(text + strlen(text), (uint64_t)id);
    return un_fail_errno(err, step, text);
}

/* Changes the supplementary groups and the ids of this thread by direct system calls. libc's
 * wrappers would take a lock and change the ids of all threads. */
static int apply_credentials(const struct un_setup *setup, struct un_error *err)
{
    bool changes = setup->gid >= 0 || setup->uid >= 0;
    bool hidden = changes && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0;
    if (setup->group_count >= 0 &&
        syscall(SYS_setgroups, (size_t)setup->group_count, setup->groups))
        return un_fail_errno(err, UN_STEP_SETGROUPS, "can't set the supplementary groups");
    gid_t gid = (gid_t)setup->gid;
    if (setup->gid >= 0 && syscall(SYS_setresgid, gid, gid, gid))
        return fail_change(UN_STEP_SETRESGID, "gid ", setup->gid, err);
    if (hidden && un_hide_process(err))
        return -1;
    uid_t uid = (uid_t)setup->uid;
    if (setup->keep_caps && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        return un_fail_errno(err, UN_STEP_CAPABILITIES, "PR_SET_KEEPCAPS");
    if (setup->uid >= 0 && syscall(SYS_setresuid, uid, uid, uid))
        return fail_change(UN_STEP_SETRESUID, "uid ", setup->uid, err);
    if (hidden && un_hide_process(err))
        return -1;
    if (setup->keep_caps && un_caps_keep())
        return un_fail_errno(err, UN_STEP_CAPABILITIES,
                             "can't add capabilities to the ambient set");
    return 0;
}

int un_die_with_parent(int sig, int parent_pidfd, struct un_error *err)
{
    if (prctl(PR_SET_PDEATHSIG, sig))
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "prctl");
    int ended = un_wait_readable(parent_pidfd, 0);
    if (ended < 0)
        return un_fail_errno(err, UN_STEP_PDEATHSIG, "poll");
    errno = ESRCH;
    return ended ? un_fail_errno(err, UN_STEP_PDEATHSIG, "the parent has ended") : 0;
}

int un_setup_apply(const struct un_setup *setup, struct un_error *err)
{
    /* Call un_own_stdio() first. Later there may be no /proc in the new root directory, or the new
     * ids may lack permission to open the files. */
    if (setup->own_stdio)
        un_own_stdio();
    if (setup->propagation && mount("none", "/", NULL, MS_REC | setup->propagation, NULL))
        return un_fail_errno(err, UN_STEP_PROPAGATION, "/");
    if (setup->root && (chroot(setup->root) || chdir("/")))
        return un_fail_errno(err, UN_STEP_ROOT, setup->root);
    if (apply_mount_proc(setup, err))
        return -1;
    if (setup->cwd && chdir(setup->cwd))
        return un_fail_errno(err, UN_STEP_CWD, setup->cwd);
    if (apply_restrictions(setup, err) || apply_credentials(setup, err))
        return -1;
    /* Set the parent-death signal last, because each change of credentials clears it
     * (PR_SET_PDEATHSIG(2const)). */
    return setup->pdeathsig ? un_die_with_parent(setup->pdeathsig, setup->parent_pidfd, err) : 0;
}
