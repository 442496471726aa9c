#include "base/base.h"
#include "sys/sys.h"

#include <sched.h>
#include <sys/syscall.h>

/* Size of an affinity mask in bytes, for 8192 processors, the most that Linux supports
 * (CONFIG_NR_CPUS). */
#define SET_BYTES 1024
#define SET_BITS (SET_BYTES * 8)

struct processors {
    unsigned char bits[SET_BYTES];
};

static bool has_processor(const struct processors *set, unsigned number)
{
    return set->bits[number / 8] >> number % 8 & 1;
}

/* Reads the affinity mask of this thread by a direct system call, because libc's cpu_set_t has room
 * for 1024 processors only. */
static bool read_affinity(struct processors *set)
{
    memset(set, 0, sizeof *set);
    return syscall(SYS_sched_getaffinity, 0, sizeof *set, set) > 0;
}

uint64_t un_processors(void)
{
    struct processors set;
    uint64_t count = 0;
    if (!read_affinity(&set))
        return UINT64_MAX;
    for (unsigned i = 0; i < SET_BITS; i++)
        count += has_processor(&set, i);
    return count;
}

void un_use_processors(uint64_t count)
{
    struct processors all, chosen = {{0}};
    unsigned first = 0;
    if (!read_affinity(&all) || syscall(SYS_getcpu, &first, NULL, NULL))
        return;
    /* Begin with the current processor, which the scheduler has chosen because it had little
     * work. */
    for (unsigned i = 0; i < SET_BITS && count; i++) {
        unsigned number = (first + i) % SET_BITS;
        if (!has_processor(&all, number))
            continue;
        chosen.bits[number / 8] |= (unsigned char)(1U << number % 8);
        count--;
    }
    syscall(SYS_sched_setaffinity, 0, sizeof chosen, &chosen);
}
