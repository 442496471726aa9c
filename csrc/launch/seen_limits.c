/*
 * Making the limits of the sandbox and of its control group visible to the program in the sandbox.
 *
 * gVisor reports two numbers to the program: the memory size of the whole host, which runsc reads
 * from /proc/meminfo, and the number of processors in runsc's CPU affinity. Programs such as Node
 * and the JVM derive the sizes of their heaps and thread pools from these two numbers. So a file
 * with the memory limit is bind-mounted on /proc/meminfo in the mount namespace of runsc, and a CPU
 * quota becomes a CPU affinity with as many processors.
 */
#include "base/base.h"
#include "facts/facts.h"
#include "launch/launch.h"
#include "sys/sys.h"

#include <inttypes.h>
#include <sys/mount.h>

#define MEMINFO "/proc/meminfo"

/* The minimum memory limit in bytes. Even the command `true` takes 16 MiB in gVisor if one id is
 * mapped, and 21 MiB if all ids are mapped (runsc 20240729 on x86-64). */
#define LEAST_MEMORY (24U << 20)

static int refuse_little_memory(uint64_t memory, struct un_error *err)
{
    char limit[UN_MIB_ROOM];
    return un_fail(err, UN_STEP_SANDBOX, 0, "memory-limit-too-low",
                   "the control group may use %s of memory, and gVisor alone needs %u MiB",
                   un_mib_text(memory, limit), LEAST_MEMORY >> 20);
}

static int write_meminfo(const char *path, uint64_t memory, struct un_error *err)
{
    char text[128];
    uint64_t kib = memory >> 10;
    snprintf(text, sizeof text,
             "MemTotal:       %8" PRIu64 " kB\nMemFree:        %8" PRIu64
             " kB\nMemAvailable:   %8" PRIu64 " kB\n",
             kib, kib, kib);
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    un_auto_close int fd = openat(AT_FDCWD, path, flags, 0400);
    if (fd < 0 || un_write_all(fd, text, strlen(text)))
        return un_fail_errno(err, UN_STEP_SANDBOX, path);
    return 0;
}

int un_leave_mount_namespace(struct un_error *err)
{
    if (unshare(CLONE_NEWNS))
        return un_fail_errno(err, UN_STEP_UNSHARE, "mount");
    return un_mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL, err);
}

static int cover_meminfo(const char *path, uint64_t memory, bool shares_mounts,
                         struct un_error *err)
{
    /* Do nothing if /proc/meminfo is missing, because the error message of runsc is then clear
     * enough. */
    if (faccessat(AT_FDCWD, MEMINFO, F_OK, 0))
        return 0;
    if (write_meminfo(path, memory, err) || (shares_mounts && un_leave_mount_namespace(err)))
        return -1;
    return un_mount(path, MEMINFO, NULL, MS_BIND, NULL, err);
}

static void lower(uint64_t *lowest, uint64_t number)
{
    if (number && number < *lowest)
        *lowest = number;
}

int un_show_limits(const char *path, uint64_t memory, uint64_t processors, bool shares_mounts,
                   struct un_error *err)
{
    struct un_group_limits own, seen;
    un_group_limits(&un_groups_here, &own);
    if (own.memory < LEAST_MEMORY)
        return refuse_little_memory(own.memory, err);
    lower(&own.memory, memory);
    lower(&own.processors, processors);
    seen = own;
    un_limit_to_machine(&seen);
    bool has_limit = own.memory < UINT64_MAX && own.memory == seen.memory;
    if (has_limit && cover_meminfo(path, seen.memory, shares_mounts, err))
        return -1;
    if (own.processors == seen.processors)
        un_use_processors(seen.processors);
    return 0;
}

int un_step_limits(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    char path[UN_PATH_MAX];
    if (un_path_join(path, launch->marks.scratch, "meminfo"))
        return un_launch_fail_file(launch, launch->marks.scratch, err);
    return un_show_limits(path, un_argument_number(un_record_argument(record, 0)),
                          un_argument_number(un_record_argument(record, 1)), false, err);
}
