#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"

/* Sends the error by one write(2), so that the reader gets it whole. */
static void send_error(int fd, struct un_error *err)
{
    char text[2 * UN_DETAIL_MAX + 256];
    un_diagnose(err, "/proc");
    int length = snprintf(text, sizeof text, "%d%c%d%c%s%c%s%c%c%s%c", err->step, 0, err->errnum, 0,
                          err->cause ? err->cause : "", 0, err->detail, 0, 0, err->remedy, 0);
    (void)!write(fd, text, (size_t)length);
}

int sandbox_show_limits(const char *directory, const struct un_limits *limits, bool shares_mounts,
                        int fd)
{
    char path[UN_PATH_MAX];
    struct un_error err;
    if (un_path_join(path, directory, "meminfo"))
        un_fail_errno(&err, UN_STEP_SANDBOX, directory);
    else if (!un_show_limits(path, limits->memory, limits->processors, shares_mounts, &err))
        return 0;
    send_error(fd, &err);
    return -1;
}
