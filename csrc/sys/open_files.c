#include "sys/sys.h"

#include <sys/resource.h>

int un_limit_open_files(uint64_t most)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return -1;
    if (limit.rlim_cur > most)
        limit.rlim_cur = most;
    if (limit.rlim_max > most)
        limit.rlim_max = most;
    return setrlimit(RLIMIT_NOFILE, &limit);
}
