#include "base/base.h"

#include <inttypes.h>
#include <stdarg.h>

void un_notice(struct un_notices *notices, const char *format, ...)
{
    if (notices->len == UN_NOTICES) {
        /* When the list overflows, its last entry is replaced by the number of dropped notices. So
         * the first overflow drops two notices: the one in the last entry, and the new one. */
        notices->more += notices->more ? 1 : 2;
        snprintf(notices->text[UN_NOTICES - 1], UN_NOTICE_MAX, "and %" PRIu32 " more",
                 notices->more);
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(notices->text[notices->len], UN_NOTICE_MAX, format, args);
    va_end(args);
    un_make_printable(notices->text[notices->len++]);
}
