/* Plans that depend on who calls, and where: what is to be known is read, then map/plan.c decides.
 */
#include "map/plan.h"
#include "sys/map_files.h"

#include <string.h>
#include <unistd.h>

int un_plan_to_join(int dir, struct un_plan *plan, struct un_error *err)
{
    memset(plan, 0, sizeof *plan);
    if (un_map_read(dir, "uid_map", &plan->map.of[UN_UID], err) ||
        un_map_read(dir, "gid_map", &plan->map.of[UN_GID], err) ||
        un_setgroups_read(dir, &plan->setgroups, err))
        return -1;
    un_plan_become(plan, geteuid(), getegid());
    return 0;
}

int un_plan_for_caller(const struct un_request *request, const struct un_sources *sources,
                       struct un_facts *facts, struct un_plan *plan, struct un_error *err)
{
    if (un_facts_read(facts, err) ||
        (un_plan_needs_parents(request, facts) && un_facts_read_parents(facts, err)))
        return -1;
    if (un_plan_needs_ranges(request, facts) && un_facts_read_ranges(facts, sources, err))
        return request->allow_single_id ? un_plan_single_id(request, facts, plan, err) : -1;
    return un_plan_make(request, facts, plan, err);
}
