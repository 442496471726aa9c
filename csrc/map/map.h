/* Building maps from requests, and planning. Internal. */
#ifndef USERNSCTL_MAP_H
#define USERNSCTL_MAP_H

#include "include/usernsctl.h"

/* ---- kind.c: constants of uids and gids ------------------------------------------------------ */

struct un_kind_facts {
    const char *name;   /* name of the kind of id: "uid" or "gid" */
    const char *subid;  /* path of the file that grants subordinate ranges (subuid(5), subgid(5)) */
    const char *helper; /* name of the helper that writes granted maps: newuidmap or newgidmap */
    const char *helper_does; /* sentence about the ids that the helper may map, which is the reason
                                for choosing the helper */
    const char *capability;  /* name of the capability that allows any map */
    int cap;                 /* number of the capability that allows any map */
    const char *privileged;  /* sentence about the capability, which is the reason why the caller
                                writes the map */
};

/* The constants of uids and of gids, indexed by enum un_kind. */
extern const struct un_kind_facts un_kinds[2];

#define UN_IDS_TEXT_MAX sizeof "uids 4294967295-4294967295"

/* Writes a range of ids for a message to `text`, as "uid 5" or "uids 5-9", and returns `text`. */
const char *un_ids_text(int kind, uint32_t first, uint32_t count, char text[UN_IDS_TEXT_MAX]);

/* ---- compose.c: building a map from a request ------------------------------------------------ */

/* Builds the uid map or the gid map of a request, and stores the ranges that don't exist in the
 * parent's map in `clipped`. */
int un_compose(int kind, const struct un_request *request, const struct un_facts *facts,
               struct un_map *map, struct un_ranges *clipped, struct un_error *err);

/* ---- plan.c: parts of planning --------------------------------------------------------------- */

/* Plans a map of only the caller's own id, after planning a request with allow_single_id has failed
 * with the error `err`. Stores this error in the plan. */
int un_plan_single_id(const struct un_request *request, const struct un_facts *facts,
                      struct un_plan *plan, struct un_error *err);

/* Stores in `plan` to which ids inside a process with the ids `uid` and `gid` must switch, and
 * whether it must drop its groups, according to the maps and the setgroups policy. */
void un_plan_become(struct un_plan *plan, uint32_t uid, uint32_t gid);

#endif
