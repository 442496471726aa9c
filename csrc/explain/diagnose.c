/*
 * Determining the cause of a failed system call. The same errno may have several causes, so facts
 * about the host decide. Reading these facts takes only microseconds. A cause is reported only if a
 * fact proves it. usernsctl doctor finds more causes, because it can try the steps that failed.
 */
#include "base/base.h"
#include "explain/explain.h"
#include "sys/sys.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* Failures whose cause follows from the step and the errno alone. */
static const struct {
    enum un_step step;
    int errnum;
    const char *cause;
} sure[] = {
    {UN_STEP_SETRESUID, EINVAL, "inside-id-unmapped"},
    {UN_STEP_SETRESGID, EINVAL, "inside-id-unmapped"},
    {UN_STEP_SETGROUPS, EINVAL, "inside-id-unmapped"},
    {UN_STEP_CWD, ENOENT, "cwd-not-found"},
    {UN_STEP_CWD, ENOTDIR, "cwd-not-found"},
    {UN_STEP_CWD, EACCES, "cwd-not-searchable"},
    /* execve(2) also fails with ENOENT if the command exists, but its interpreter does not. */
    {UN_STEP_EXEC, ENOENT, "interpreter-not-found"},
    {UN_STEP_EXEC, EACCES, "command-not-executable"},
    {UN_STEP_EXEC, ENOEXEC, "command-not-executable"},
};

static bool is_filtered(const char *proc)
{
    return un_proc_status(proc, "Seccomp:") == 2;
}

static bool is_restricted_by_apparmor(const char *proc)
{
    return un_proc_number(proc, "sys/kernel/apparmor_restrict_unprivileged_userns") == 1;
}

/* Returns whether BPF programs may act as a security module on this kernel
 * (Documentation/bpf/prog_lsm.rst). */
static bool has_bpf_module(const char *proc)
{
    char path[UN_PATH_MAX], names[256];
    return !un_path_join(path, proc, "../sys/kernel/security/lsm") &&
           un_read_file(AT_FDCWD, path, names, sizeof names) > 0 && strstr(names, "bpf");
}

/* Returns whether this process has an AppArmor profile in enforce mode. Such a profile denies all
 * operations except those that it lists. */
static bool is_confined_by_apparmor(const char *proc)
{
    static const char mode[] = " (enforce)";
    char label[512];
    if (!un_proc_apparmor(proc, "self", label, sizeof label))
        return false;
    size_t length = strlen(label), end = sizeof mode - 1;
    return length > end && !strcmp(label + length - end, mode);
}

/* Returns facts about this process and its user namespace, or NULL if they can't be read. The facts
 * are allocated, because they do not fit a small stack, and the caller must free them. */
static struct un_facts *read_facts(void)
{
    struct un_error ignored;
    struct un_facts *facts = malloc(sizeof *facts);
    if (facts && (un_facts_read(facts, &ignored) || un_facts_read_parents(facts, &ignored))) {
        free(facts);
        return NULL;
    }
    return facts;
}

static bool has_own_ids(void)
{
    un_auto_free struct un_facts *facts = read_facts();
    for (int kind = UN_UID; facts && kind <= UN_GID; kind++)
        if (!un_map_find(&facts->id[kind].parent, UN_INSIDE, facts->id[kind].own))
            return false;
    return true;
}

static bool may_admin(void)
{
    un_auto_free struct un_facts *facts = read_facts();
    return facts && facts->caps >> CAP_SYS_ADMIN & 1;
}

/* Returns whether this process is in the initial user namespace, which maps all uids in a single
 * extent. Another user namespace with such a map, which only root can create, counts as initial,
 * too. */
static bool is_initial(void)
{
    un_auto_free struct un_facts *facts = read_facts();
    return facts && facts->id[UN_UID].parent.len == 1 &&
           facts->id[UN_UID].parent.extent[0].count == UINT32_MAX;
}

/* Returns whether a seccomp filter denies unshare(2). Calls unshare(2) with invalid flags. Without
 * a filter, that call fails with EINVAL, so any other errno comes from a filter. */
static bool is_unshare_filtered(void)
{
    return syscall(SYS_unshare, CLONE_NEWUSER | 1) && errno != EINVAL;
}

static const char *creation_denied(const struct un_error *err, const char *proc)
{
    /* The kernel itself never denies unshare(0), so EPERM comes from a seccomp filter. */
    if (syscall(SYS_unshare, 0) && errno == EPERM)
        return "seccomp-denies-userns";
    if (!un_proc_has_mount(proc, "/", false))
        return "in-chroot";
    if (!has_own_ids())
        return "caller-id-unmapped";
    if (un_proc_number(proc, "sys/kernel/unprivileged_userns_clone") == 0 && !may_admin())
        return "unprivileged-userns-clone-off";
    /* After a failed unshare(2), test whether the filter denies unshare(2). After a failed
     * clone(2), such a test is useless, because the filter may deny clone(2) but allow
     * unshare(2). */
    if (is_filtered(proc) && (err->step != UN_STEP_UNSHARE || is_unshare_filtered()))
        return "seccomp-denies-userns";
    if (is_restricted_by_apparmor(proc))
        return "apparmor-restricts-userns";
    /* A chroot to a directory that is not a mount point has been ruled out above, but not a chroot
     * to a mount point. If PID 1 has the same root directory, this process is probably not in a
     * chroot. Then only a BPF program (BPF LSM) can have denied the user namespace, because no
     * other security module does so with EPERM. */
    return has_bpf_module(proc) && un_proc_shares_root(proc) ? "lsm-denies-userns" : "in-chroot";
}

/* Finds the first limit in /proc/sys/user, apart from max_user_namespaces, that is lower than
 * `most`. Returns the id of the cause for this limit, or NULL if no limit is lower. */
static const char *low_limit(const char *proc, int64_t most)
{
    static const char *const others[][2] = {
        {"sys/user/max_mnt_namespaces", "max-mnt-namespaces"},
        {"sys/user/max_net_namespaces", "max-net-namespaces"},
        {"sys/user/max_pid_namespaces", "max-pid-namespaces"},
        {"sys/user/max_ipc_namespaces", "max-ipc-namespaces"},
        {"sys/user/max_uts_namespaces", "max-uts-namespaces"},
        {"sys/user/max_cgroup_namespaces", "max-cgroup-namespaces"},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        int64_t limit = un_proc_number(proc, others[i][0]);
        if (limit >= 0 && limit < most)
            return others[i][1];
    }
    return NULL;
}

/* Returns the cause for the limit in /proc/sys/user that has probably been reached (namespaces(7),
 * "The /proc/sys/user directory"). A limit of 0 is the likeliest, because it forbids all namespaces
 * of its type. In a user namespace other than the initial one, each limit is INT32_MAX unless root
 * of that namespace has lowered it, so a lower limit is the next likeliest. */
static const char *limit_hit(const char *proc)
{
    int64_t users = un_proc_number(proc, "sys/user/max_user_namespaces");
    const char *other = users ? low_limit(proc, 1) : NULL;
    if (other)
        return other;
    if (users < INT32_MAX || is_initial())
        return "max-user-namespaces";
    other = low_limit(proc, INT32_MAX);
    return other ? other : "nesting-too-deep";
}

/* Returns whether `errnum`, the error of a system call that the kernel itself never denies, comes
 * from a seccomp filter. EAFNOSUPPORT is the errno of systemd's RestrictAddressFamilies=. */
static bool is_refused_by_filter(int errnum, const char *proc)
{
    return (errnum == EPERM || errnum == EACCES || errnum == ENOSYS || errnum == EAFNOSUPPORT) &&
           is_filtered(proc);
}

/* Returns whether the failed system call is not one that creates namespaces. The causes of a
 * failure to create namespaces then do not apply. */
static bool is_other_call(const struct un_error *err)
{
    static const char *const calls[] = {"socketpair", "pidfd_open", "fork", "prctl"};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(err->detail, calls[i]))
            return true;
    return false;
}

static const char *creation_failed(const struct un_error *err, const char *proc)
{
    int errnum = err->errnum;
    char path[64];
    bool is_descriptor = !strcmp(err->detail, UN_CHILD_DESCRIPTOR);
    if ((is_descriptor || is_other_call(err)) && is_refused_by_filter(errnum, proc))
        return "seccomp-denies-call";
    if (is_descriptor)
        return NULL;
    switch (errnum) {
    case EPERM:
        return creation_denied(err, proc);
    case EACCES:
        return is_restricted_by_apparmor(proc) ? "apparmor-restricts-userns" : "lsm-denies-userns";
    case ENOSYS:
        return is_filtered(proc) ? "seccomp-denies-userns" : NULL;
    case EAGAIN:
        return "process-limit";
    case ENOSPC:
    case EUSERS:
        return limit_hit(proc);
    case EINVAL:
        snprintf(path, sizeof path, "%s/self/ns/user", proc);
        return access(path, F_OK) ? "no-config-user-ns" : NULL;
    default:
        return is_unshare_filtered() ? "seccomp-denies-userns" : NULL;
    }
}

/* Returns whether this process can open its own /proc/self/comm for writing. Also returns false if
 * the process is non-dumpable. */
static bool may_write_own_file(const char *proc)
{
    char path[UN_PATH_MAX];
    un_auto_close int fd =
        un_path_join(path, proc, "self/comm") ? -1 : openat(AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
    return fd >= 0;
}

const char *un_cause_of_closed_proc(const char *proc)
{
    if (is_restricted_by_apparmor(proc))
        return "apparmor-restricts-userns";
    if (is_confined_by_apparmor(proc))
        return "lsm-denies-userns";
    /* AppArmor has been ruled out above, and of the other mechanisms only Landlock denies a file in
     * /proc to its owner. No system call tells whether Landlock confines a process. But a ruleset
     * that denies writing to uid_map also denies writing to all other files in /proc, so try
     * another file. */
    return un_landlock_version() && !may_write_own_file(proc) ? "landlock" : NULL;
}

/* Returns whether Landlock denies this process writing to /dev/null: opening the file for writing
 * fails with EACCES, though its mode allows that, and though the file can be opened for reading,
 * which the option nodev of a mount would deny. */
static bool is_null_denied_by_landlock(const char *proc)
{
    struct stat status;
    un_auto_close int readable = un_open_null(O_RDONLY);
    un_auto_close int writable = readable < 0 ? -1 : un_open_null(O_WRONLY);
    return readable >= 0 && writable < 0 && errno == EACCES && !fstat(readable, &status) &&
           (status.st_mode & 0222) == 0222 && un_landlock_version() &&
           !is_confined_by_apparmor(proc);
}

static const char *map_failed(int errnum, const char *proc)
{
    switch (errnum) {
    case EROFS:
        return "proc-read-only";
    case ENOENT:
    case ESRCH:
        return un_proc_hides(proc) ? "proc-hidepid" : "target-gone";
    case EINVAL:
        return "map-invalid";
    case EPERM:
        if (is_restricted_by_apparmor(proc))
            return "apparmor-restricts-userns";
        return is_confined_by_apparmor(proc) ? "lsm-denies-userns" : NULL;
    case EACCES:
        return un_cause_of_closed_proc(proc);
    default:
        return NULL;
    }
}

/* Returns the cause of a mount call's failure with ENOSPC. open_tree(2) creates a mount namespace
 * for the copied mount, so it also fails at the limit of mount namespaces. Returns NULL if this
 * process has so many mounts that the limit of mounts (proc_sys_fs(5), mount-max) may be the cause
 * instead. */
static const char *mount_space_used(const char *proc)
{
    char path[UN_PATH_MAX];
    un_auto_mounts struct un_mounts mounts;
    un_path_join(path, proc, "self/mountinfo");
    un_mounts_read(&mounts, path);
    int64_t most = un_proc_number(proc, "sys/fs/mount-max");
    return (int64_t)mounts.count < most / 2 ? "max-mnt-namespaces" : NULL;
}

static const char *mount_failed(const struct un_error *err, const char *proc)
{
    if (err->errnum == ENOSPC)
        return mount_space_used(proc);
    if (err->errnum == ENOSYS)
        return is_filtered(proc) ? "mount-denied" : NULL;
    if (err->errnum != EPERM && err->errnum != EACCES)
        return NULL;
    /* Without a seccomp filter, a mount(2) without source, target and type fails with EFAULT or
     * EINVAL, so EPERM comes from a filter. */
    if (syscall(SYS_mount, NULL, NULL, NULL, 0, NULL) && errno == EPERM)
        return "mount-denied";
    if (strcmp(err->detail, "/proc") && is_filtered(proc))
        return "mount-denied";
    /* Landlock denies every change of mounts, but no system call tells whether Landlock confines
     * this process. Without Landlock, root of the mount namespace may change the propagation of
     * "/", so EPERM for that change comes from Landlock. */
    if (!strcmp(err->detail, "/") && err->errnum == EPERM && may_admin())
        return un_landlock_version() ? "landlock-denies-mount" : NULL;
    if (strcmp(err->detail, "/proc"))
        return NULL;
    return un_proc_has_mount(proc, "/proc", true) ? "proc-masked" : "mount-without-owned-ns";
}

static const char *join_failed(int errnum)
{
    /* Without a seccomp filter, setns(2) fails with EBADF for the descriptor -1, so any other errno
     * comes from a filter. */
    if (syscall(SYS_setns, -1, 0) && errno != EBADF)
        return "seccomp-denies-userns";
    return errnum == EPERM || errnum == EINVAL ? "join-denied" : NULL;
}

static const char *change_of_ids_failed(enum un_step step)
{
    /* With the arguments -1, setresgid(2) and setresuid(2) change no id, so only a seccomp filter
     * makes them fail. */
    return syscall(step == UN_STEP_SETRESGID ? SYS_setresgid : SYS_setresuid, -1, -1, -1)
               ? "seccomp-denies-call"
               : NULL;
}

static const char *find_errno_cause(const struct un_error *err, const char *proc)
{
    for (size_t i = 0; i < sizeof sure / sizeof *sure; i++)
        if (sure[i].step == (enum un_step)err->step && sure[i].errnum == err->errnum)
            return sure[i].cause;
    switch (err->step) {
    case UN_STEP_FACTS:
        if ((!strcmp(err->detail, "capget") || !strcmp(err->detail, "uname")) &&
            is_refused_by_filter(err->errnum, proc))
            return "seccomp-denies-call";
        /* An AppArmor profile may deny access to the files in /proc/PID/ns with EACCES, because
         * these files (on nsfs) have no path. */
        return err->errnum == EACCES && is_confined_by_apparmor(proc) ? "lsm-denies-userns" : NULL;
    case UN_STEP_CLONE:
    case UN_STEP_UNSHARE:
        return creation_failed(err, proc);
    case UN_STEP_CAPABILITIES:
        return err->errnum && is_filtered(proc) ? "seccomp-denies-call" : NULL;
    case UN_STEP_PDEATHSIG:
        return is_refused_by_filter(err->errnum, proc) ? "seccomp-denies-call" : NULL;
    case UN_STEP_SETRESGID:
    case UN_STEP_SETRESUID:
        return change_of_ids_failed((enum un_step)err->step);
    case UN_STEP_STDIO:
        if (strcmp(err->detail, "/dev/null"))
            return NULL;
        return is_null_denied_by_landlock(proc) ? "landlock" : "dev-null-missing";
    case UN_STEP_SETNS:
        return join_failed(err->errnum);
    case UN_STEP_SETGROUPS:
        if (err->errnum != EPERM)
            return map_failed(err->errnum, proc);
        return strcmp(err->detail, UN_SETGROUPS_FILE) ? "setgroups-denied-on-join"
                                                      : "setgroups-order";
    case UN_STEP_UID_MAP:
    case UN_STEP_GID_MAP:
        return map_failed(err->errnum, proc);
    case UN_STEP_PROPAGATION:
    case UN_STEP_MOUNT:
        return mount_failed(err, proc);
    case UN_STEP_LOOKUP:
        return "command-not-found";
    default:
        return NULL;
    }
}

/* Returns whether ENOSYS comes from a seccomp filter, and not from a kernel that lacks the system
 * call. An unreadable /proc/self/status counts as a filter, because a filter may deny the calls
 * that read the file. */
static bool is_missing_by_filter(int errnum, const char *proc)
{
    return errnum == ENOSYS && un_proc_status(proc, "Seccomp:") != 0;
}

void un_diagnose(struct un_error *err, const char *proc)
{
    if (err->cause)
        return;
    /* The causes of EMFILE, ETOOMANYREFS and EFBIG do not depend on the failed system call. */
    if (err->errnum == EMFILE || err->errnum == ETOOMANYREFS)
        err->cause = "descriptor-limit";
    else if (err->errnum == EFBIG)
        err->cause = "file-size-limit";
    else
        err->cause = find_errno_cause(err, proc);
    if (!err->cause && is_missing_by_filter(err->errnum, proc))
        err->cause = "seccomp-denies-call";
}
