#include "programs/exec/exec.h"

/* Returns whether the caller's uid or gid, as `kind` selects, is mapped, so that the command can
 * keep it. */
static bool stays(const struct un_plan *plan, const struct un_facts *facts, int kind)
{
    return un_map_find(&plan->map.of[kind], UN_OUTSIDE, facts->id[kind].own);
}

void un_take_identity(const struct un_plan *plan, const struct un_facts *facts, bool alike,
                      struct un_setup *setup)
{
    bool may_drop = plan->setgroups != UN_SETGROUPS_DENY;
    if (plan->drop_groups || (setup->gid >= 0 && may_drop))
        setup->group_count = 0;
    if (setup->uid < 0 && !(alike && stays(plan, facts, UN_UID)))
        setup->uid = plan->become[UN_UID];
    if (setup->gid < 0 && !(alike && stays(plan, facts, UN_GID)))
        setup->gid = plan->become[UN_GID];
}
