/* Internal: see struct un_notices. */
#ifndef USERNSCTL_BASE_NOTICE_H
#define USERNSCTL_BASE_NOTICE_H

#include "include/usernsctl.h"

/* Adds a notice by printf's rules, cut to its room. */
void un_notice(struct un_notices *notices, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
