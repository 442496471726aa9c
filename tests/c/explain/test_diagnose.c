/* Tests of un_diagnose() with a fake /proc: for EPERM of unshare(2), ENOSPC of mounts, and ENOSYS
 * of any system call. */
#include "check.h"
#include "explain/explain.h"
#include "needs.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void write_file(const char *top, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", top, name);
    FILE *file = fopen(path, "w");
    CHECK(file);
    CHECK(fputs(text, file) >= 0);
    CHECK_INT(fclose(file), 0);
}

static void the_cause_is(const char *top, const char *modules, const char *own, const char *first,
                         const char *cause)
{
    char proc[128];
    struct un_error err = {.step = UN_STEP_UNSHARE, .errnum = EPERM};
    write_file(top, "sys/kernel/security/lsm", modules);
    write_file(top, "proc/self/mountinfo", own);
    write_file(top, "proc/1/mountinfo", first);
    snprintf(proc, sizeof proc, "%s/proc", top);
    un_diagnose(&err, proc);
    CHECK_TEXT(err.cause, cause);
}

/* Checks the cause of ENOSPC: open_tree(2) and mount(2) fail with this errno if the limit on mount
 * namespaces or on mounts is reached. */
static void a_full_mount_means(const char *top, const char *most, const char *cause)
{
    char proc[128];
    struct un_error err = {.step = UN_STEP_MOUNT, .errnum = ENOSPC};
    write_file(top, "proc/sys/fs/mount-max", most);
    snprintf(proc, sizeof proc, "%s/proc", top);
    un_diagnose(&err, proc);
    CHECK_TEXT(err.cause ? err.cause : "", cause);
}

/* Checks the cause of ENOSYS, which must come from a seccomp filter, because every supported kernel
 * has all system calls that usernsctl makes. */
static void a_missing_call_means(const char *top, const char *status, const char *cause)
{
    char proc[128];
    struct un_error err = {.step = UN_STEP_UID_MAP, .errnum = ENOSYS};
    write_file(top, "proc/self/status", status);
    snprintf(proc, sizeof proc, "%s/proc", top);
    un_diagnose(&err, proc);
    CHECK_TEXT(err.cause ? err.cause : "", cause);
}

int main(void)
{
    static const char *const directories[] = {"proc",       "proc/self",          "proc/1",
                                              "proc/sys",   "proc/sys/fs",        "sys",
                                              "sys/kernel", "sys/kernel/security"};
    static const char with_bpf[] = "capability,landlock,yama,bpf", others[] = "capability,yama";
    static const char machine[] = "20 1 8:1 / / rw - ext4 a rw\n31 20 8:2 / /mnt rw - ext4 b rw\n";
    static const char into_mount[] = "31 20 8:2 / / rw - ext4 b rw\n";
    static const char covered[] = "20 1 8:1 / / rw - ext4 a rw\n31 20 8:2 / / rw - ext4 b rw\n";
    static const char elsewhere[] = "77 1 8:1 / / rw - ext4 a rw\n";
    char top[] = "/tmp/test-diagnose-XXXXXX", path[128];
    need_user_namespaces();
    CHECK(mkdtemp(top));
    for (size_t i = 0; i < COUNT(directories); i++) {
        snprintf(path, sizeof path, "%s/%s", top, directories[i]);
        CHECK_INT(mkdir(path, 0755), 0);
    }
    the_cause_is(top, with_bpf, machine, machine, "lsm-denies-userns");
    the_cause_is(top, with_bpf, covered, covered, "lsm-denies-userns");
    the_cause_is(top, others, machine, machine, "in-chroot");
    the_cause_is(top, with_bpf, into_mount, machine, "in-chroot");
    the_cause_is(top, with_bpf, into_mount, elsewhere, "in-chroot");
    the_cause_is(top, with_bpf, "", machine, "in-chroot");
    write_file(top, "proc/self/mountinfo", covered);
    a_full_mount_means(top, "100000", "max-mnt-namespaces");
    a_full_mount_means(top, "2", "");
    a_missing_call_means(top, "Seccomp:\t2\n", "seccomp-denies-call");
    a_missing_call_means(top, "", "seccomp-denies-call");
    a_missing_call_means(top, "Seccomp:\t0\n", "");
    snprintf(path, sizeof path, "rm -r %s", top);
    CHECK_INT(system(path), 0);
    return 0;
}
