/* Maps and plans. Internal. */
#ifndef USERNSCTL_MAP_H
#define USERNSCTL_MAP_H

#include "include/usernsctl.h"

/* ---- kind.c: constants of uids and gids ------------------------------------------------------ */

struct un_kind_facts {
    const char *name;        /* "uid" or "gid" */
    const char *subid;       /* file that grants subordinate ranges (subuid(5), subgid(5)) */
    const char *helper;      /* name of the helper that writes granted maps */
    const char *helper_does; /* sentence about the helper */
    const char *capability;  /* name of the capability to write any map */
    int cap;                 /* number of that capability */
    const char *privileged;  /* sentence that says that the caller has the capability */
};

/* Indexed by enum un_kind. */
extern const struct un_kind_facts un_kinds[2];

#define UN_IDS_TEXT_MAX sizeof "uids 4294967295-4294967295"

/* Writes ids for a message, as "uid 5" or "uids 5-9", and returns `text`. */
const char *un_ids_text(int kind, uint32_t first, uint32_t count, char text[UN_IDS_TEXT_MAX]);

/* ---- compose.c: building a map from a request ------------------------------------------------ */

/* Builds the map of a request, and lists the ranges that don't exist in the parent's map. */
int un_compose(int kind, const struct un_request *request, const struct un_facts *facts,
               struct un_map *map, struct un_ranges *clipped, struct un_error *err);

/* ---- plan.c: parts of planning --------------------------------------------------------------- */

/* Plans a map of the caller's own id only, for a request with allow_single_id that failed with
 * `err`, which is stored in the plan. */
int un_plan_single_id(const struct un_request *request, const struct un_facts *facts,
                      struct un_plan *plan, struct un_error *err);

/* Stores in the plan to which ids inside a process with these ids must switch, and whether it must
 * drop its groups, according to the maps and the setgroups policy. */
void un_plan_become(struct un_plan *plan, uint32_t uid, uint32_t gid);

#endif
