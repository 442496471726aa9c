#include "programs/shared/report.h"

#include <stdio.h>

void report_error(const char *program, const struct un_error *err)
{
    char reason[UN_DETAIL_MAX + 128];
    fprintf(stderr, "%s: %s: %s\n", program, un_step_name(err->step),
            un_error_reason(err, reason, sizeof reason));
    report_cause(err->cause);
}

void report_cause(const char *id)
{
    const struct un_cause *cause = un_cause_find(id);
    if (cause)
        fprintf(stderr, "  why: %s [%s]\n  remedy: %s\n", cause->why, cause->id, cause->remedy);
}
