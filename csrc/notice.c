#include "notice.h"

#include <stdarg.h>
#include <stdio.h>

void un_notice(struct un_notices *notices, const char *format, ...)
{
    if (notices->len == UN_NOTICES) {
        notices->more++;
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(notices->text[notices->len++], UN_NOTICE_MAX, format, args);
    va_end(args);
}
