/* Planning: what is mapped, and who writes it. Pure functions of a request and of facts. */
#include "error.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <string.h>

static const char *const kind_names[] = {[UN_UID] = "uid", [UN_GID] = "gid"};

static const char *const writer_names[] = {
    [UN_WRITER_NONE] = "none",
    [UN_WRITER_SELF] = "self",
    [UN_WRITER_PARENT] = "parent",
    [UN_WRITER_HELPER] = "helper",
};

const char *un_writer_name(int writer)
{
    return writer_names[writer];
}

static bool kernel_is(const struct un_facts *facts, uint32_t major, uint32_t minor)
{
    return facts->kernel_major > major ||
           (facts->kernel_major == major && facts->kernel_minor >= minor);
}

static bool holds(const struct un_facts *facts, int cap)
{
    return facts->caps >> cap & 1;
}

/* Puts the extents together: our own id first, then what was asked for by name. */
static int plan_map(int kind, const struct un_request *request, const struct un_facts *facts,
                    struct un_map *map, struct un_error *err)
{
    const struct un_id_request *want = &request->id[kind];
    const struct un_map *parent = &facts->id[kind].parent;
    uint32_t own = facts->id[kind].own;

    map->len = 0;
    if (want->map_self) {
        if (!un_map_has(parent, own))
            return un_fail(err, UN_STEP_PLAN, 0, "caller-id-unmapped",
                           "our %s %" PRIu32 " is not mapped in the user namespace we are in",
                           kind_names[kind], own);
        if (un_map_add(map, (struct un_extent){want->self, own, 1}, err))
            return -1;
    }
    for (uint32_t i = 0; i < want->more.len; i++)
        if (un_map_add_within(map, want->more.extent[i], parent, NULL, err))
            return -1;
    if (map->len == 0)
        return 0;
    uint32_t most = kernel_is(facts, 4, 15) ? UN_MAP_MAX : 5;
    return un_map_check(map, most, facts->page_size, err);
}

static bool maps_outside(const struct un_map *map, uint32_t outside)
{
    for (uint32_t i = 0; i < map->len; i++)
        if (outside - map->extent[i].outside < map->extent[i].count)
            return true;
    return false;
}

/* Linux 5.12: who maps the parent's uid 0 could write file capabilities that count there. */
static bool lacks_setfcap(int kind, const struct un_map *map, const struct un_facts *facts)
{
    return kind == UN_UID && maps_outside(map, 0) && kernel_is(facts, 5, 12) &&
           !holds(facts, CAP_SETFCAP);
}

static bool is_own_id(const struct un_map *map, uint32_t own)
{
    return map->len == 1 && map->extent[0].count == 1 && map->extent[0].outside == own;
}

static int choose_writer(int kind, const struct un_request *request, const struct un_facts *facts,
                         struct un_plan *plan, struct un_error *err)
{
    static const int cap[] = {[UN_UID] = CAP_SETUID, [UN_GID] = CAP_SETGID};
    const struct un_map *map = &plan->map.of[kind];
    /* Group 0 of a file may forbid what everybody else may: that is why a process can't drop its
     * groups once it mapped one without privilege (user_namespaces(7), "Interaction with ..."). */
    bool self = is_own_id(map, facts->id[kind].own) &&
                !(kind == UN_GID && request->setgroups == UN_SETGROUPS_ALLOW);

    if (map->len == 0) {
        plan->writer[kind] = UN_WRITER_NONE;
        plan->reason[kind] = "nothing was asked for";
        return 0;
    }
    if ((self || holds(facts, cap[kind])) && lacks_setfcap(kind, map, facts))
        return un_fail(err, UN_STEP_PLAN, 0, "needs-setfcap",
                       "uid 0 of this namespace can't be mapped without CAP_SETFCAP");
    if (self) {
        plan->writer[kind] = UN_WRITER_SELF;
        plan->reason[kind] = "one id, our own";
        return 0;
    }
    if (holds(facts, cap[kind])) {
        plan->writer[kind] = UN_WRITER_PARENT;
        plan->reason[kind] = kind == UN_UID ? "we hold CAP_SETUID" : "we hold CAP_SETGID";
        return 0;
    }
    if (is_own_id(map, facts->id[kind].own))
        return un_fail(err, UN_STEP_PLAN, 0, "setgroups-order",
                       "setgroups can't stay allowed: we don't hold CAP_SETGID");
    return un_fail(
        err, UN_STEP_PLAN, 0, "unprivileged-map",
        "the %s map needs %s, which we don't hold: it maps more than our own id %" PRIu32,
        kind_names[kind], kind == UN_UID ? "CAP_SETUID" : "CAP_SETGID", facts->id[kind].own);
}

/* Our own id if it is mapped, else root if that is. */
static int64_t inside_id(const struct un_map *map, uint32_t own)
{
    for (uint32_t i = 0; i < map->len; i++)
        if (own - map->extent[i].outside < map->extent[i].count)
            return map->extent[i].inside + (own - map->extent[i].outside);
    return un_map_has(map, 0) ? 0 : -1;
}

int un_plan_make(const struct un_request *request, const struct un_facts *facts,
                 struct un_plan *plan, struct un_error *err)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (plan_map(kind, request, facts, &plan->map.of[kind], err) ||
            choose_writer(kind, request, facts, plan, err))
            return -1;
    plan->setgroups = request->setgroups;
    if (plan->writer[UN_GID] == UN_WRITER_SELF)
        plan->setgroups = UN_SETGROUPS_DENY;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        plan->become[kind] = inside_id(&plan->map.of[kind], facts->id[kind].own);
    plan->drop_groups = plan->setgroups != UN_SETGROUPS_DENY && plan->become[UN_GID] >= 0 &&
                        !maps_outside(&plan->map.of[UN_GID], facts->id[UN_GID].own);
    return 0;
}

bool un_plan_writes_itself(const struct un_plan *plan)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (plan->writer[kind] > UN_WRITER_SELF)
            return false;
    return true;
}
