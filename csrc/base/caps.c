#include "base/base.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Version 3 splits each set of 64 bits in two words, the lower one first. */
struct caps_words {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

static int get(struct caps_words *words)
{
    words->header = (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
    return (int)syscall(SYS_capget, &words->header, words->data);
}

int un_caps_effective(uint64_t *caps)
{
    struct caps_words words;
    if (get(&words))
        return -1;
    *caps = words.data[0].effective | (uint64_t)words.data[1].effective << 32;
    return 0;
}

int un_caps_keep(void)
{
    struct caps_words words;
    if (get(&words))
        return -1;
    for (int i = 0; i < 2; i++)
        words.data[i].inheritable = words.data[i].permitted;
    if (syscall(SYS_capset, &words.header, words.data))
        return -1;
    uint64_t permitted = words.data[0].permitted | (uint64_t)words.data[1].permitted << 32;
    for (unsigned long cap = 0; cap < 64; cap++)
        if (permitted >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0))
            return -1;
    return 0;
}
