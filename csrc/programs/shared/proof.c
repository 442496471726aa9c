#include "base/base.h"
#include "programs/shared/shared.h"
#define UN_NO_ENTRY /* that is the program's */
#include "base/freestanding.h"

#include <linux/utsname.h>

/* syslog(2): read what is in the kernel's log. gVisor grants that to every user. */
#define SYSLOG_ACTION_READ_ALL 3
/* Far more than gVisor's log, which is a dozen lines. */
#define LOG_SIZE 8192

/* gVisor has reported this build since 2018; only the release before it has changed. It is what
 * /proc/version shows, too. No Linux kernel of that minute is in use. */
static const char gvisor_build[] = "#1 SMP Sun Jan 10 15:06:54 PST 2016";

/* The first line of gVisor's kernel log (gvisor.dev, "dmesg" in the quick start). The lines after
 * it are drawn by lot. */
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
