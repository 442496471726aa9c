/* Plans that depend on who calls, and where: what is to be known is read, then map/plan.c decides.
 */
#include "map/kind.h"
#include "map/plan.h"
#include "sys/map_files.h"

#include <inttypes.h>
#include <stdio.h>
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

/* Whether root's shell takes a name as it is, and usermod(8) does not take it for an option. */
static bool is_plain(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return *name && *name != '-' && !name[strspn(name, plain)];
}

/* Ids that nobody has, and that exist here: those from 100000 on may not exist in a container. */
static void name_grant(const struct un_sources *sources, const struct un_facts *facts,
                       struct un_error *err)
{
    const char *paths[2];
    uint32_t first;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        paths[kind] = sources->subid[kind] ? sources->subid[kind] : un_kinds[kind].subid;
    if (!is_plain(facts->user) || !un_subid_free(paths, &first))
        return;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        bool exist;
        const struct un_map *parent = &facts->id[kind].parent;
        if (un_map_run(parent, UN_INSIDE, first, UN_GRANT_COUNT, &exist) < UN_GRANT_COUNT || !exist)
            return;
    }
    uint32_t last = first + UN_GRANT_COUNT - 1;
    snprintf(err->remedy, sizeof err->remedy,
             "usermod --add-subuids %" PRIu32 "-%" PRIu32 " --add-subgids %" PRIu32 "-%" PRIu32
             " %s",
             first, last, first, last, facts->user);
}

int un_plan_for_caller(const struct un_request *request, const struct un_sources *sources,
                       struct un_facts *facts, struct un_plan *plan, struct un_error *err)
{
    if (un_facts_read(facts, err) ||
        (un_plan_needs_parents(request, facts) && un_facts_read_parents(facts, err)))
        return -1;
    if (un_plan_needs_ranges(request, facts) && un_facts_read_ranges(facts, sources, err))
        return request->allow_single_id ? un_plan_single_id(request, facts, plan, err) : -1;
    int failed = un_plan_make(request, facts, plan, err);
    struct un_error *told = failed ? err : plan->single_id ? &plan->wanted : NULL;
    if (told && told->cause && !strcmp(told->cause, "no-subordinate-range"))
        name_grant(sources, facts, told);
    return failed;
}
