/* Facts: who we are, and which ids exist for us. */
#include "base/caps.h"
#include "base/error.h"
#include "sys/self.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

static int read_kernel(struct un_facts *facts, struct un_error *err)
{
    struct utsname name;
    if (uname(&name))
        return un_fail_errno(err, UN_STEP_FACTS, "uname");
    if (sscanf(name.release, "%" SCNu32 ".%" SCNu32, &facts->kernel_major, &facts->kernel_minor) !=
        2)
        return un_fail(err, UN_STEP_FACTS, 0, NULL, "\"%s\" is no kernel version", name.release);
    return 0;
}

static int read_parent_maps(struct un_facts *facts, struct un_error *err)
{
    int self = un_open_self(err);
    if (self < 0)
        return -1;
    int failed = un_map_read(self, "uid_map", &facts->id[UN_UID].parent, err) ||
                 un_map_read(self, "gid_map", &facts->id[UN_GID].parent, err);
    close(self);
    return failed ? -1 : 0;
}

int un_facts_read(struct un_facts *facts, struct un_error *err)
{
    memset(facts, 0, sizeof *facts);
    facts->user_gid = -1;
    facts->in_bounding_set = prctl(PR_CAPBSET_READ, CAP_SETUID, 0, 0, 0) == 1 &&
                             prctl(PR_CAPBSET_READ, CAP_SETGID, 0, 0, 0) == 1;
    facts->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
    facts->id[UN_UID].own = geteuid();
    facts->id[UN_GID].own = getegid();
    facts->page_size = (size_t)sysconf(_SC_PAGESIZE);
    if (un_caps_effective(&facts->caps))
        return un_fail_errno(err, UN_STEP_FACTS, "capget");
    if (read_kernel(facts, err) || read_parent_maps(facts, err))
        return -1;
    return 0;
}

int un_thread_count(void)
{
    /* A directory has a link for itself, one from its parent, and one for each thread. */
    struct stat task;
    if (stat("/proc/self/task", &task) || task.st_nlink < 3)
        return -1;
    return (int)task.st_nlink - 2;
}
