/* Internal: see struct un_notices. */
#ifndef USERNSCTL_NOTICE_H
#define USERNSCTL_NOTICE_H

#include "usernsctl.h"

/* Adds a notice by printf's rules, cut to its room. */
void un_notice(struct un_notices *notices, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
