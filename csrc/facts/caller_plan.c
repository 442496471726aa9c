/* Planning the uid map and the gid map for the calling process. The functions here read the facts
 * about the process; map/plan.c chooses the maps, and the process or program that writes each
 * map. */
#include "facts/facts.h"
#include "map/map.h"
#include "sys/sys.h"

#include <inttypes.h>

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

/* Returns whether a user name can stand in a shell command without quotes. The name can't be
 * mistaken for an option of usermod(8), because un_user_line() finds no name that begins with
 * "-". */
static bool is_plain_name(const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return *name && !name[strspn(name, plain)];
}

static void name_grant(const struct un_sources *sources, const struct un_facts *facts,
                       struct un_error *err)
{
    const struct un_map *const parents[2] = {&facts->id[UN_UID].parent, &facts->id[UN_GID].parent};
    const struct un_grant_files files = {
        .subid = {un_subid_path(sources, UN_UID), un_subid_path(sources, UN_GID)},
        .users = {"/etc/passwd", "/etc/group"},
    };
    struct un_range ids;
    if (!is_plain_name(facts->user) || !un_free_ids(&files, parents, &ids))
        return;
    uint32_t last = ids.start + ids.count - 1;
    snprintf(err->remedy, sizeof err->remedy,
             "usermod --add-subuids %" PRIu32 "-%" PRIu32 " --add-subgids %" PRIu32 "-%" PRIu32
             " %s    # as root",
             ids.start, last, ids.start, last, facts->user);
}

int un_plan_for_caller(const struct un_request *request, const struct un_sources *sources,
                       struct un_facts *facts, struct un_plan *plan, struct un_error *err)
{
    if (un_facts_read(facts, err))
        return -1;
    bool needs_ranges = un_plan_needs_ranges(request, facts);
    if ((needs_ranges && un_filter_check(&un_ranges_calls, err)) ||
        (un_plan_needs_parents(request, facts) && un_facts_read_parents(facts, err)))
        return -1;
    if (needs_ranges && un_facts_read_ranges(facts, sources, err))
        return request->allow_single_id ? un_plan_single_id(request, facts, plan, err) : -1;
    int failed = un_plan_make(request, facts, plan, err);
    struct un_error *error = failed ? err : plan->single_id ? &plan->wanted : NULL;
    if (error && error->cause && !strcmp(error->cause, "no-subordinate-range"))
        name_grant(sources, facts, error);
    return failed;
}
