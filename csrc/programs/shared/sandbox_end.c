#include "base/base.h"
#include "programs/shared/shared.h"

#include <inttypes.h>

/* Exit status after a timeout, as of timeout(1). */
#define TIMED_OUT 124

int end_status(const struct un_end *end)
{
    return strcmp(end->reason, "timeout") ? SANDBOX_KILLED : TIMED_OUT;
}

int end_write(int fd, const struct un_end *end)
{
    char text[END_TEXT_MAX + 128];
    int length = snprintf(text, sizeof text, "%s %" PRIu64 " %" PRIu64 "\n%s\n", end->reason,
                          end->limit, end->used, end->text);
    return un_write_all(fd, text, (size_t)length);
}
