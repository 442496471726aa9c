/* Tests of un_diagnose(), which finds the cause of an error by the error's step and errno, and by
 * files of /proc. The tests use a fake /proc. */
#include "explain/explain.h"
#include "inside.h"
#include "needs.h"
#include "sys/sys.h"

#define FILTER {"self/status", "Seccomp:\t2\n"}
#define APPARMOR {"sys/kernel/apparmor_restrict_unprivileged_userns", "1"}
#define ENFORCED {"self/attr/apparmor/current", "some (enforce)"}
#define HIDDEN {"self/mountinfo", "20 1 0:4 / /proc rw - proc p rw,hidepid=2\n"}
#define MASKED                                                                                     \
    {"self/mountinfo", "20 1 0:4 / /proc rw - proc p rw\n21 20 0:5 / /proc/x rw - t t rw\n"}
#define LIMIT(kind, most) {"sys/user/max_" kind "_namespaces", most}

static const struct {
    enum un_step step;
    int errnum;
    const char *detail;
    const char *file[2][2]; /* two files in the fake /proc, each as name and content */
    const char *cause;      /* id of the expected cause; "" for none */
} errors[] = {
    {UN_STEP_UNSHARE, EMFILE, "", {{0}}, "descriptor-limit"},
    {UN_STEP_EXEC, EFBIG, "", {{0}}, "file-size-limit"},
    {UN_STEP_LOOKUP, ENOENT, "", {{0}}, "command-not-found"},
    {UN_STEP_UNSHARE, EACCES, "", {APPARMOR}, "apparmor-restricts-userns"},
    {UN_STEP_UNSHARE, EACCES, "", {{0}}, "lsm-denies-userns"},
    {UN_STEP_UNSHARE, ENOSYS, "", {FILTER}, "seccomp-denies-userns"},
    {UN_STEP_UNSHARE, EINVAL, "", {{0}}, "no-config-user-ns"},
    {UN_STEP_UNSHARE, EINVAL, "", {{"self/ns/user", ""}}, ""},
    {UN_STEP_CLONE, EAGAIN, "", {{0}}, "process-limit"},
    {UN_STEP_CLONE, EIO, "", {{0}}, ""},
    {UN_STEP_CLONE, EPERM, "fork", {FILTER}, "seccomp-denies-call"},
    {UN_STEP_CLONE, ENOSPC, "", {LIMIT("user", "0")}, "max-user-namespaces"},
    {UN_STEP_CLONE, EUSERS, "", {LIMIT("user", "1"), LIMIT("pid", "0")}, "max-pid-namespaces"},
    {UN_STEP_CLONE,
     ENOSPC,
     "",
     {LIMIT("user", "2147483647"), LIMIT("net", "5")},
     "max-net-namespaces"},
    {UN_STEP_CLONE, ENOSPC, "", {LIMIT("user", "2147483647")}, "nesting-too-deep"},
    {UN_STEP_UID_MAP, EROFS, "", {{0}}, "proc-read-only"},
    {UN_STEP_UID_MAP, ESRCH, "", {HIDDEN}, "proc-hidepid"},
    {UN_STEP_UID_MAP, ENOENT, "", {MASKED}, "target-gone"},
    {UN_STEP_GID_MAP, EINVAL, "", {{0}}, "map-invalid"},
    {UN_STEP_GID_MAP, EPERM, "", {APPARMOR}, "apparmor-restricts-userns"},
    {UN_STEP_GID_MAP, EPERM, "", {ENFORCED}, "lsm-denies-userns"},
    {UN_STEP_GID_MAP, EPERM, "", {{0}}, ""},
    {UN_STEP_GID_MAP, EIO, "", {{0}}, ""},
    {UN_STEP_GID_MAP, EACCES, "", {APPARMOR}, "apparmor-restricts-userns"},
    {UN_STEP_GID_MAP, EACCES, "", {ENFORCED}, "lsm-denies-userns"},
    {UN_STEP_GID_MAP, EACCES, "", {{"self/comm", ""}}, ""},
    {UN_STEP_FACTS, EACCES, "", {ENFORCED}, "lsm-denies-userns"},
    {UN_STEP_FACTS, EPERM, "capget", {FILTER}, "seccomp-denies-call"},
    {UN_STEP_CAPABILITIES, EPERM, "", {FILTER}, "seccomp-denies-call"},
    {UN_STEP_PDEATHSIG, EPERM, "", {FILTER}, "seccomp-denies-call"},
    {UN_STEP_SETRESGID, EINVAL, "", {{0}}, "inside-id-unmapped"},
    {UN_STEP_SETRESGID, EPERM, "", {{0}}, ""},
    {UN_STEP_SETRESUID, EPERM, "", {{0}}, ""},
    {UN_STEP_STDIO, ENOENT, "/dev/null", {{0}}, "dev-null-missing"},
    {UN_STEP_STDIO, EACCES, "/dev/null", {{0}}, "dev-null-missing"},
    {UN_STEP_SETNS, EPERM, "", {{0}}, "join-denied"},
    {UN_STEP_SETNS, EIO, "", {{0}}, ""},
    {UN_STEP_SETGROUPS, EPERM, "", {{0}}, "setgroups-denied-on-join"},
    {UN_STEP_SETGROUPS, EPERM, UN_SETGROUPS_FILE, {{0}}, "setgroups-order"},
    {UN_STEP_SETGROUPS, EINVAL, "", {{0}}, "inside-id-unmapped"},
    {UN_STEP_SETGROUPS, EROFS, "", {{0}}, "proc-read-only"},
    {UN_STEP_MOUNT, ENOSYS, "", {FILTER}, "mount-denied"},
    {UN_STEP_MOUNT, EIO, "", {{0}}, ""},
    {UN_STEP_MOUNT, EPERM, "/data", {FILTER}, "mount-denied"},
    {UN_STEP_MOUNT, EPERM, "/data", {{0}}, ""},
    {UN_STEP_MOUNT, EPERM, "/proc", {MASKED}, "proc-masked"},
    {UN_STEP_MOUNT, EPERM, "/proc", {{0}}, "mount-without-owned-ns"},
};

/* Errors of clone3(2) with a control group. The error's detail must be the path of the control
 * group, followed by `below`. */
static const struct {
    int errnum;
    const char *cause, *below;
} groups[] = {
    {E2BIG, "clone-into-cgroup-missing", ""},
    {EBADF, "cgroup-not-unified", ""},
    {EBUSY, "cgroup-takes-no-process", ""},
    {EOPNOTSUPP, "cgroup-takes-no-process", ""},
    {ENOENT, "", ""},
    {EACCES, "cgroup-not-delegated", "/cgroup.procs"},
};

/* Creates the file `name` below the directory `top`, with its parent directories. */
static void make_below(const char *top, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", top, name);
    for (char *slash = path; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        CHECK(!mkdir(path, 0755) || errno == EEXIST);
    }
    make_file(path, text, 0644);
}

static void errors_have_causes(void)
{
    enter_inside();
    for (size_t i = 0; i < COUNT(errors); i++) {
        struct un_error err = {.step = (int)errors[i].step, .errnum = errors[i].errnum};
        char top[32];
        snprintf(top, sizeof top, "%zu", i);
        make_directory(top, 0755);
        strcpy(err.detail, errors[i].detail);
        for (size_t j = 0; j < 2 && errors[i].file[j][0]; j++)
            make_below(top, errors[i].file[j][0], errors[i].file[j][1]);
        un_diagnose(&err, top);
        if (strcmp(err.cause ? err.cause : "", errors[i].cause))
            fprintf(stderr, "error %zu\n", i);
        CHECK_TEXT(err.cause ? err.cause : "", errors[i].cause);
    }
}

static void errors_of_control_groups_have_causes(void)
{
    char path[64];
    enter_inside();
    int dir = open("scratch", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(dir >= 0);
    for (size_t i = 0; i < COUNT(groups); i++) {
        struct un_error err = {.step = UN_STEP_CLONE, .errnum = groups[i].errnum};
        un_explain_cgroup(&err, dir);
        CHECK_TEXT(err.cause ? err.cause : "", groups[i].cause);
        CHECK_INT(err.step, UN_STEP_CGROUP);
        snprintf(path, sizeof path, "/tmp/scratch%s", groups[i].below);
        CHECK_TEXT(err.detail, path);
    }
    make_file("scratch/cgroup.procs", "", 0644);
    for (size_t i = 0; i < 3; i++) {
        static const int others[] = {EACCES, EPERM, EIO};
        struct un_error err = {.step = UN_STEP_CLONE, .errnum = others[i]};
        un_explain_cgroup(&err, dir);
        CHECK(!err.cause);
        CHECK_INT(err.step, UN_STEP_CLONE);
    }
}

int main(void)
{
    need_user_namespaces();
    check_in_child(errors_have_causes);
    check_in_child(errors_of_control_groups_have_causes);
    return 0;
}
