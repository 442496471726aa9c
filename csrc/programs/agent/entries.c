#include "programs/agent/agent.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An entry that getdents64(2) returns: struct linux_dirent64, which no header declares. */
struct entry {
    uint64_t inode;
    int64_t next;
    unsigned short length;
    unsigned char type;
    char name[];
};

static bool take_part(const char *entries, long size, agent_take_entry *take, void *arg)
{
    const struct entry *entry;
    for (long at = 0; at < size; at += entry->length) {
        entry = (const void *)(entries + at);
        if (strcmp(entry->name, ".") && strcmp(entry->name, "..") && !take(entry->name, arg))
            return false;
    }
    return true;
}

bool agent_each_entry(int dir, const char *name, agent_take_entry *take, void *arg)
{
    _Alignas(uint64_t) char entries[4096];
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    long size;
    bool more = true;
    while (more && (size = syscall(SYS_getdents64, fd, entries, sizeof entries, 0, 0)) > 0)
        more = take_part(entries, size, take, arg);
    close(fd);
    return more && !size;
}
