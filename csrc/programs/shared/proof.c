#include "base/base.h"
#include "programs/shared/shared.h"
#define UN_NO_ENTRY /* programs that are linked with this file define the entry point */
#include "base/freestanding.h"

#include <linux/utsname.h>

/* Action of syslog(2) that reads the complete kernel log. gVisor permits it to every user. */
#define SYSLOG_ACTION_READ_ALL 3
/* Size in bytes of the buffer for gVisor's kernel log, which has only a dozen lines. */
#define LOG_SIZE 8192

/* The field `version` of uname(2) in gVisor, which is also in /proc/version. All releases of gVisor
 * since 2018 report this text. No Linux kernel in use was built at this time. */
static const char gvisor_build[] = "#1 SMP Sun Jan 10 15:06:54 PST 2016";

/* The first line of gVisor's kernel log (gvisor.dev, "dmesg" in the quick start). The following
 * lines are random. */
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
    /* Initialize the structure, because clang's analyzer does not know that un_raw_call() fills it
     * in. */
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
