#include "base/base.h"
#include "sys/sys.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef PR_GET_MDWE
#define PR_GET_MDWE 66
#endif
#define LANDLOCK_VERSION 1U

int un_hide_process(struct un_error *err)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        return un_fail_errno(err, UN_STEP_CAPABILITIES, "PR_SET_DUMPABLE");
    return 0;
}

int un_open_self(struct un_error *err)
{
    int self = openat(AT_FDCWD, "/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self >= 0)
        return self;
    un_fail_errno(err, UN_STEP_FACTS, "/proc/self");
    if (err->errnum == ENOENT)
        err->cause = "no-proc";
    return -1;
}

int un_blame_missing_proc(struct un_error *err)
{
    struct un_error why;
    un_auto_close int self = err->errnum == ENOENT ? un_open_self(&why) : -1;
    if (self < 0 && err->errnum == ENOENT)
        *err = why;
    return -1;
}

int un_denies_write_execute(void)
{
    int flags = prctl(PR_GET_MDWE, 0, 0, 0, 0);
    return flags < 0 ? -1 : flags > 0;
}

int un_securebits(void)
{
    return prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
}

int un_capability_count(void)
{
    for (int count = 0; count < 64; count++)
        if (prctl(PR_CAPBSET_READ, count, 0, 0, 0) < 0)
            /* Without a seccomp filter, prctl(2) fails only with EINVAL, for the first number that
             * is not a capability of this kernel. Any other errno comes from a filter. */
            return errno == EINVAL ? count : -1;
    return 64;
}

int un_dumpable(void)
{
    return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
}

int un_landlock_version(void)
{
    long version = syscall(UN_SYS_LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_VERSION);
    return version > 0 ? (int)version : 0;
}
