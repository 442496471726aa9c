/* What the programs print on standard error. */
#ifndef USERNSCTL_SHARED_REPORT_H
#define USERNSCTL_SHARED_REPORT_H

#include "include/usernsctl.h"

/* A failure: in which step, why, and what mends it. */
void report_error(const char *program, const struct un_error *err);

/* The same with a remedy that is better than the cause's own; NULL: there is none. */
void report_error_with(const char *program, const struct un_error *err, const char *remedy);

/* What is known of a cause, if its id is known. */
void report_cause(const char *id);

#endif
