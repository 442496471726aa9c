/* Reading facts about this process: its ids, its capabilities, and the maps of its user
 * namespace. */
#include "base/base.h"
#include "sys/sys.h"

#include <sys/stat.h>
#include <sys/utsname.h>

static int read_kernel(struct un_facts *facts, struct un_error *err)
{
    struct utsname name;
    if (uname(&name))
        return un_fail_errno(err, UN_STEP_FACTS, "uname");
    uint64_t major = 0, minor = 0;
    const char *at = un_number_read(name.release, UINT32_MAX, &major);
    if (!at || *at != '.' || !un_number_read(at + 1, UINT32_MAX, &minor))
        return un_fail(err, UN_STEP_FACTS, 0, NULL, "\"%s\" is not a kernel version", name.release);
    facts->kernel_major = (uint32_t)major;
    facts->kernel_minor = (uint32_t)minor;
    return 0;
}

static int read_parent_maps(struct un_facts *facts, struct un_error *err)
{
    int failed = un_map_read(AT_FDCWD, "/proc/self/uid_map", &facts->id[UN_UID].parent, err) ||
                 un_map_read(AT_FDCWD, "/proc/self/gid_map", &facts->id[UN_GID].parent, err);
    return failed ? un_blame_missing_proc(err) : 0;
}

int un_facts_read(struct un_facts *facts, struct un_error *err)
{
    memset(facts, 0, sizeof *facts);
    facts->user_gid = -1;
    facts->id[UN_UID].own = geteuid();
    facts->id[UN_GID].own = getegid();
    facts->page_size = (size_t)sysconf(_SC_PAGESIZE);
    return un_caps_effective(&facts->caps) ? un_fail_errno(err, UN_STEP_FACTS, "capget") : 0;
}

int un_facts_read_parents(struct un_facts *facts, struct un_error *err)
{
    if (read_kernel(facts, err) || read_parent_maps(facts, err))
        return -1;
    facts->has_parents = true;
    return 0;
}

int un_thread_count(void)
{
    /* The link count of /proc/self/task is 2 plus the number of threads, each of which has a
     * subdirectory. */
    struct stat task;
    if (stat("/proc/self/task", &task) || task.st_nlink < 3)
        return -1;
    return (int)task.st_nlink - 2;
}
