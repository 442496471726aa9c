#include "programs/exec/exec.h"

#include <stdio.h>
#include <sys/auxv.h>

static void warn_single_id(const struct un_error *wanted)
{
    char reason[UN_DETAIL_MAX + 128], text[sizeof reason + 128];
    snprintf(text, sizeof text, "mapping only the caller's own id, as --allow-single-id allows: %s",
             un_error_reason(wanted, reason, sizeof reason));
    report_message(
        (struct report){.program = "usernsctl-exec", .level = "notice", .message = text});
}

int un_exec_plan(const struct un_request *request, const char *path, struct decision *decision,
                 struct un_error *err)
{
    const struct un_sources sources = {.path = path};
    return un_plan_for_caller(request, &sources, &decision->facts, &decision->plan, err);
}

int un_exec_enter(const struct decision *decision, uint64_t flags, struct un_setup *setup,
                  struct un_error *err)
{
    const struct un_plan *plan = &decision->plan;
    if (un_enter(plan, flags, "/proc/self/exe", false, err))
        return -1;
    if (plan->single_id)
        warn_single_id(&plan->wanted);
    un_take_identity(plan, &decision->facts, !getauxval(AT_SECURE), setup);
    return 0;
}
