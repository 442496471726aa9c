/* Planning: choosing the uid map and the gid map, and the process or program that writes each map.
 * All functions here are pure, so a plan depends only on the request and on the facts about the
 * caller. */
#include "base/base.h"
#include "map/map.h"

#include <inttypes.h>

/* The default of the overflow id, which the kernel shows in place of unmapped ids
 * (/proc/sys/kernel/overflowuid). */
#define OVERFLOW_ID 65534

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

static bool has_capability(const struct un_facts *facts, int cap)
{
    return facts->caps >> cap & 1;
}

/* Returns whether the map contains uid 0 of the parent namespace, but the caller lacks CAP_SETFCAP.
 * Linux requires this capability for such a map since 5.12, because root in the new namespace can
 * write file capabilities that are valid in the parent. */
static bool lacks_setfcap(int kind, const struct un_map *map, const struct un_facts *facts)
{
    return kind == UN_UID && un_map_find(map, UN_OUTSIDE, 0) && kernel_is(facts, 5, 12) &&
           !has_capability(facts, CAP_SETFCAP);
}

static bool is_own_id(const struct un_map *map, uint32_t own)
{
    return map->len == 1 && map->extent[0].count == 1 && map->extent[0].outside == own;
}

/* Returns how many consecutive ids, from `id` on, the range that contains `id` grants, or 0 if no
 * range contains `id`. */
static uint32_t granted_from(const struct un_ranges *ranges, uint32_t id)
{
    for (uint32_t i = 0; i < ranges->len; i++)
        if (id >= ranges->range[i].start && id - ranges->range[i].start < ranges->range[i].count)
            return ranges->range[i].count - (id - ranges->range[i].start);
    return 0;
}

/* Returns whether newuidmap(1) accepts an extent. The extent may span adjacent ranges. An extent of
 * only the caller's own id needs no range (have_range() in shadow's subordinateio.c). */
static bool is_granted(struct un_extent extent, const struct un_id_facts *id)
{
    if (extent.count == 1 && extent.outside == id->own)
        return true;
    while (extent.count) {
        uint32_t granted = granted_from(&id->ranges, extent.outside);
        if (granted == 0)
            return false;
        if (granted >= extent.count)
            return true;
        extent.outside += granted;
        extent.count -= granted;
    }
    return false;
}

static int refuse_helper(int kind, const struct un_facts *facts, const char *cause, const char *why,
                         struct un_error *err)
{
    const char *path = facts->id[kind].helper;
    return un_fail(err, UN_STEP_PLAN, 0, cause, "mapping other %ss needs %s or %s: %s",
                   un_kinds[kind].name, un_kinds[kind].capability,
                   *path ? path : un_kinds[kind].helper, why);
}

/* Fails if newuidmap or newgidmap certainly can't write the map for the caller. Does not run the
 * program. */
static int check_helper(int kind, const struct un_facts *facts, struct un_error *err)
{
    static const struct {
        const char *cause, *why;
    } states[] = {
        [UN_HELPER_MISSING] = {"helper-missing", "the program is in no directory of PATH"},
        [UN_HELPER_NOT_EXECUTABLE] = {"helper-not-executable",
                                      "the caller may not execute the program"},
        [UN_HELPER_CAPS_ELSEWHERE] = {"helper-caps-other-userns",
                                      "the file capabilities are for another user namespace"},
        [UN_HELPER_NOT_SETUID] = {"helper-not-setuid",
                                  "the file has neither setuid root nor file capabilities"},
        [UN_HELPER_NOSUID] = {"helper-on-nosuid",
                              "the file gains no privileges on a mount with nosuid"},
    };
    int state = facts->id[kind].helper_state;
    if (state != UN_HELPER_READY)
        return refuse_helper(kind, facts, states[state].cause, states[state].why, err);
    if (facts->no_new_privs)
        return refuse_helper(kind, facts, "no-new-privs",
                             "the program gains no privileges with no_new_privs", err);
    if (!facts->in_bounding_set)
        return refuse_helper(kind, facts, "bounding-set",
                             "the bounding set lacks CAP_SETUID or CAP_SETGID", err);
    if (!facts->user[0])
        return refuse_helper(kind, facts, "no-passwd-entry", "the caller's uid has no user name",
                             err);
    if (!facts->any_group && facts->user_gid != (int64_t)facts->id[UN_GID].own)
        return refuse_helper(kind, facts, "gid-differs-from-passwd",
                             "the caller's gid differs from the passwd entry", err);
    return 0;
}

static int plan_helper(int kind, const struct un_facts *facts, struct un_plan *plan,
                       struct un_error *err)
{
    const struct un_map *map = &plan->map.of[kind];
    const struct un_id_facts *id = &facts->id[kind];
    if (check_helper(kind, facts, err))
        return -1;
    char text[UN_IDS_TEXT_MAX];
    for (uint32_t i = 0; i < map->len; i++)
        if (!is_granted(map->extent[i], id))
            return un_fail(err, UN_STEP_PLAN, 0, "range-not-granted",
                           "%s does not grant %s to user %s", un_kinds[kind].subid,
                           un_ids_text(kind, map->extent[i].outside, map->extent[i].count, text),
                           facts->user);
    plan->writer[kind] = UN_WRITER_HELPER;
    plan->reason[kind] = un_kinds[kind].helper_does;
    memcpy(plan->helper[kind], id->helper, sizeof id->helper);
    return 0;
}

static int choose_writer(int kind, const struct un_request *request, const struct un_facts *facts,
                         struct un_plan *plan, struct un_error *err)
{
    const struct un_map *map = &plan->map.of[kind];
    bool own = is_own_id(map, facts->id[kind].own);
    bool privileged = has_capability(facts, un_kinds[kind].cap);
    /* If setgroups(2) is to stay allowed, the process can't write its gid map itself. The mode of a
     * file may deny the group what it grants to others, so a process must not be able to leave a
     * group by setgroups(2). Hence the kernel lets an unprivileged process map a gid only after
     * setgroups(2) is denied (user_namespaces(7), "The /proc/PID/setgroups file"). */
    bool self = own && !(kind == UN_GID && request->setgroups == UN_SETGROUPS_ALLOW);

    if (map->len == 0) {
        plan->writer[kind] = UN_WRITER_NONE;
        plan->reason[kind] = "no map was requested";
        return 0;
    }
    if ((self || privileged) && lacks_setfcap(kind, map, facts))
        return un_fail(err, UN_STEP_PLAN, 0, "needs-setfcap",
                       "uid 0 of this namespace can't be mapped without CAP_SETFCAP");
    if (self || privileged) {
        plan->writer[kind] = self ? UN_WRITER_SELF : UN_WRITER_PARENT;
        plan->reason[kind] = self ? "one id, the caller's own" : un_kinds[kind].privileged;
        return 0;
    }
    if (own)
        return un_fail(err, UN_STEP_PLAN, 0, "setgroups-order",
                       "setgroups can't stay allowed: the caller lacks CAP_SETGID");
    return plan_helper(kind, facts, plan, err);
}

/* Returns the id to which a process with the id `own` must switch in the user namespace: the id to
 * which `own` is mapped. If `own` is not mapped, returns 0, or -1 if the namespace has no id 0. */
static int64_t inside_id(const struct un_map *map, uint32_t own)
{
    const struct un_extent *extent = un_map_find(map, UN_OUTSIDE, own);
    if (extent)
        return extent->inside + (own - extent->outside);
    return un_map_find(map, UN_INSIDE, 0) ? 0 : -1;
}

/* The process must drop its supplementary groups if its gid in the parent namespace changes, unless
 * setgroups(2) is denied. */
void un_plan_become(struct un_plan *plan, uint32_t uid, uint32_t gid)
{
    plan->is_root = uid == 0;
    plan->become[UN_UID] = inside_id(&plan->map.of[UN_UID], uid);
    plan->become[UN_GID] = inside_id(&plan->map.of[UN_GID], gid);
    plan->drop_groups = plan->setgroups != UN_SETGROUPS_DENY && plan->become[UN_GID] >= 0 &&
                        !un_map_find(&plan->map.of[UN_GID], UN_OUTSIDE, gid);
}

static int plan_kind(int kind, const struct un_request *request, const struct un_facts *facts,
                     struct un_plan *plan, struct un_error *err)
{
    struct un_map *map = &plan->map.of[kind];
    uint32_t most = kernel_is(facts, 4, 15) ? UN_MAP_MAX : 5;
    if (un_compose(kind, request, facts, map, &plan->clipped[kind], err))
        return -1;
    if (map->len && un_map_check(map, most, facts->page_size, err))
        return -1;
    return choose_writer(kind, request, facts, plan, err);
}

static int plan_all(const struct un_request *request, const struct un_facts *facts,
                    struct un_plan *plan, struct un_error *err)
{
    memset(plan, 0, sizeof *plan);
    plan->helper_timeout_ms = UN_HELPER_TIMEOUT_MS;
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (plan_kind(kind, request, facts, plan, err))
            return -1;
    plan->setgroups = request->setgroups;
    if (plan->writer[UN_GID] == UN_WRITER_SELF)
        plan->setgroups = UN_SETGROUPS_DENY;
    un_plan_become(plan, facts->id[UN_UID].own, facts->id[UN_GID].own);
    return 0;
}

int un_plan_single_id(const struct un_request *request, const struct un_facts *facts,
                      struct un_plan *plan, struct un_error *err)
{
    struct un_request single = *request;
    struct un_error wanted = *err;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        single.id[kind].more.len = 0;
        single.id[kind].fill = UN_FILL_NONE;
        single.id[kind].self = request->id[kind].map_self ? request->id[kind].self : 0;
        single.id[kind].map_self = true;
    }
    if (plan_all(&single, facts, plan, err))
        return -1;
    plan->single_id = true;
    plan->wanted = wanted;
    return 0;
}

int un_plan_make(const struct un_request *request, const struct un_facts *facts,
                 struct un_plan *plan, struct un_error *err)
{
    if (!plan_all(request, facts, plan, err))
        return 0;
    if (!request->allow_single_id || err->step != UN_STEP_PLAN)
        return -1;
    return un_plan_single_id(request, facts, plan, err);
}

bool un_plan_writes_itself(const struct un_plan *plan)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (plan->writer[kind] > UN_WRITER_SELF)
            return false;
    return true;
}

/* Returns whether a plan depends on the maps of the current user namespace or on the kernel
 * version. A map can contain only ids that the current user namespace maps, so the plan must check
 * all ids. The caller's own id needs no check, because the kernel denies unshare(2) to a caller
 * with an unmapped id, except if it is the overflow id, which may stand for an unmapped id. The
 * kernel version matters for uid 0, because mapping uid 0 may require CAP_SETFCAP. */
bool un_plan_needs_parents(const struct un_request *request, const struct un_facts *facts)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        const struct un_id_request *want = &request->id[kind];
        uint32_t own = facts->id[kind].own;
        if (want->fill != UN_FILL_NONE || want->more.len)
            return true;
        if (want->map_self && own == OVERFLOW_ID)
            return true;
        if (want->map_self && kind == UN_UID && own == 0 && !has_capability(facts, CAP_SETFCAP))
            return true;
    }
    return false;
}

bool un_plan_needs_ranges(const struct un_request *request, const struct un_facts *facts)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        const struct un_id_request *want = &request->id[kind];
        if (want->fill == UN_FILL_PACKED || want->fill == UN_FILL_IDENTITY)
            return true;
        if ((want->fill == UN_FILL_ALL || want->more.len) &&
            !has_capability(facts, un_kinds[kind].cap))
            return true;
    }
    return false;
}
