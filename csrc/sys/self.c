#include "sys/self.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>

void un_hide_process(void)
{
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

int un_open_self(struct un_error *err)
{
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self >= 0)
        return self;
    un_fail_errno(err, UN_STEP_FACTS, "/proc/self");
    if (err->errnum == ENOENT)
        err->cause = "no-proc";
    return -1;
}
