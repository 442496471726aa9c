#include "base/base.h"
#include "programs/shared/shared.h"
#define UN_NO_ENTRY /* each program that is linked with this file defines its own entry point */
#include "base/freestanding.h"

#include <linux/utsname.h>

/* Action of syslog(2) that reads the whole kernel log. gVisor allows this action to every user. */
#define SYSLOG_ACTION_READ_ALL 3
/* Size in bytes of the buffer for gVisor's kernel log, which consists of about a dozen lines. */
#define LOG_SIZE 8192

/* gVisor's `version` in uname(2) and /proc/version. All releases of gVisor since 2018 report this
 * text, and no Linux kernel in use was built at this time. */
static const char gvisor_build[] = "#1 SMP Sun Jan 10 15:06:54 PST 2016";

/* First line of gVisor's kernel log (gvisor.dev, "dmesg" in the quick start). The lines after it
 * are random. */
static const char gvisor_boot[] = "Starting gVisor...";

static bool contains(const char *text, const char *part)
{
    for (; *text; text++)
        if (un_begins(text, part))
            return true;
    return false;
}

bool un_runs_on_gvisor(void)
{
    struct new_utsname kernel;
    /* Initialize `version`, because clang's analyzer does not know that un_raw_call() fills in the
     * structure. */
    kernel.version[0] = '\0';
    if (un_raw_call(__NR_uname, (long)&kernel, 0, 0, 0, 0, 0) ||
        !un_begins(kernel.version, gvisor_build))
        return false;
    char log[LOG_SIZE];
    long length =
        un_raw_call(__NR_syslog, SYSLOG_ACTION_READ_ALL, (long)log, LOG_SIZE - 1, 0, 0, 0);
    if (length < 0)
        return false;
    log[length] = '\0';
    return contains(log, gvisor_boot);
}
