/* Filling in a struct un_error, and formatting it as text. */
#include "base/base.h"

#include <stdarg.h>

static const char *const step_names[UN_STEP_COUNT] = {
    [UN_STEP_NONE] = "none",           [UN_STEP_ARGUMENT] = "argument",
    [UN_STEP_FACTS] = "facts",         [UN_STEP_SUBID] = "subordinate ranges",
    [UN_STEP_PLAN] = "plan",           [UN_STEP_CLONE] = "clone",
    [UN_STEP_CGROUP] = "cgroup",       [UN_STEP_UNSHARE] = "unshare",
    [UN_STEP_SETNS] = "setns",         [UN_STEP_SETGROUPS] = "setgroups",
    [UN_STEP_UID_MAP] = "uid_map",     [UN_STEP_GID_MAP] = "gid_map",
    [UN_STEP_HELPER] = "helper",       [UN_STEP_PROPAGATION] = "propagation",
    [UN_STEP_MOUNT] = "mount",         [UN_STEP_ROOT] = "chroot",
    [UN_STEP_CWD] = "chdir",           [UN_STEP_SETRESGID] = "setresgid",
    [UN_STEP_SETRESUID] = "setresuid", [UN_STEP_CAPABILITIES] = "capabilities",
    [UN_STEP_SESSION] = "session",     [UN_STEP_PDEATHSIG] = "pdeathsig",
    [UN_STEP_STDIO] = "stdio",         [UN_STEP_FDS] = "descriptors",
    [UN_STEP_LOOKUP] = "lookup",       [UN_STEP_EXEC] = "exec",
    [UN_STEP_WAIT] = "wait",           [UN_STEP_LAUNCH] = "launch",
    [UN_STEP_SANDBOX] = "sandbox",     [UN_STEP_ROOTFS] = "rootfs",
    [UN_STEP_HOME] = "home",           [UN_STEP_BIND] = "bind",
    [UN_STEP_CONFIG] = "config",       [UN_STEP_RUNSC] = "runsc",
    [UN_STEP_NETWORK] = "network",     [UN_STEP_USER] = "user",
};

const char *un_step_name(int step)
{
    if (step < 0 || step >= UN_STEP_COUNT)
        return "unknown";
    return step_names[step];
}

static void set_error(struct un_error *err, enum un_step step, int errnum, const char *cause)
{
    err->step = (int)step;
    err->errnum = errnum;
    err->cause = cause;
    err->detail[0] = '\0';
    err->remedy[0] = '\0';
}

int un_fail(struct un_error *err, enum un_step step, int errnum, const char *cause,
            const char *format, ...)
{
    set_error(err, step, errnum, cause);
    va_list args;
    va_start(args, format);
    vsnprintf(err->detail, sizeof err->detail, format, args);
    va_end(args);
    return -1;
}

int un_fail_errno(struct un_error *err, enum un_step step, const char *detail)
{
    set_error(err, step, errno, NULL);
    size_t length = strnlen(detail, sizeof err->detail - 1);
    memcpy(err->detail, detail, length);
    err->detail[length] = '\0';
    return -1;
}

const char *un_cause_of_file_error(int errnum)
{
    return errnum == ENOSPC || errnum == EDQUOT ? "disk-full" : NULL;
}

const char *un_errno_text(int errnum)
{
    static const struct {
        int errnum;
        const char *text;
    } differing[] = {
        {EIO, "Input/output error"},
        {ECHILD, "No child processes"},
        {ENOMEM, "Cannot allocate memory"},
        {EBUSY, "Device or resource busy"},
        {EXDEV, "Invalid cross-device link"},
        {EMFILE, "Too many open files"},
        {ENOTTY, "Inappropriate ioctl for device"},
        {ESPIPE, "Illegal seek"},
        {ERANGE, "Numerical result out of range"},
        {EDEADLK, "Resource deadlock avoided"},
        {ENAMETOOLONG, "File name too long"},
        {ELOOP, "Too many levels of symbolic links"},
        {EOVERFLOW, "Value too large for defined data type"},
        {EILSEQ, "Invalid or incomplete multibyte or wide character"},
        {ENOTSOCK, "Socket operation on non-socket"},
        {EMSGSIZE, "Message too long"},
        {EOPNOTSUPP, "Operation not supported"},
        {EADDRINUSE, "Address already in use"},
        {EADDRNOTAVAIL, "Cannot assign requested address"},
        {ENETUNREACH, "Network is unreachable"},
        {ENOTCONN, "Transport endpoint is not connected"},
        {ETIMEDOUT, "Connection timed out"},
        {EHOSTUNREACH, "No route to host"},
        {EUCLEAN, "Structure needs cleaning"},
        {EDQUOT, "Disk quota exceeded"},
        {EUSERS, "Too many users"},
        {ELIBBAD, "Accessing a corrupted shared library"},
    };
    for (size_t i = 0; i < sizeof differing / sizeof *differing; i++)
        if (differing[i].errnum == errnum)
            return differing[i].text;
    return strerror(errnum);
}

const char *un_error_reason(const struct un_error *err, char *text, size_t size)
{
    /* Omit strerror(3)'s text for ETIMEDOUT: this errno always comes from a timeout of usernsctl
     * itself, and the detail describes that timeout. */
    bool has_text = err->errnum && err->errnum != ETIMEDOUT;
    const char *kernel = has_text ? un_errno_text(err->errnum) : "";
    /* Show an empty detail as "" only if it is the name of a command or of a working directory. */
    bool is_name = err->step == UN_STEP_LOOKUP || err->step == UN_STEP_CWD;
    const char *detail = is_name && !*err->detail ? "\"\"" : err->detail;
    const char *between = *kernel && *detail ? ": " : "";
    snprintf(text, size, "%s%s%s", detail, between, kernel);
    /* Make the text printable: paths, arguments and the messages of helpers may contain any bytes,
     * but an error must be one line without control sequences. */
    if (size)
        un_make_printable(text);
    return text;
}

int un_exit_status(const struct un_error *err)
{
    if (err->step == UN_STEP_LOOKUP)
        return 127;
    return err->step == UN_STEP_EXEC ? 126 : 125;
}
