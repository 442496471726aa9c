/* Building uid and gid maps from requests, and choosing the process or program that writes each
 * map. Internal. */
#ifndef USERNSCTL_MAP_H
#define USERNSCTL_MAP_H

#include "include/usernsctl.h"

/* ---- kind.c: the files, programs and capabilities for uid maps and for gid maps -------------- */

struct un_kind_facts {
    const char *name;        /* "uid" or "gid" */
    const char *subid;       /* path of the file that grants ranges (subuid(5), subgid(5)) */
    const char *helper;      /* name of the helper that maps granted ids: newuidmap or newgidmap */
    const char *helper_does; /* sentence that explains to users why the helper writes the map */
    const char *capability;  /* name of the capability with which a process may write any map */
    int cap;                 /* number of that capability */
    /* sentence that explains to users why the caller writes the map itself */
    const char *privileged;
};

/* Names, files and capabilities for uid maps and for gid maps, indexed by enum un_kind. */
extern const struct un_kind_facts un_kinds[2];

#define UN_IDS_TEXT_MAX sizeof "uids 4294967295-4294967295"

/* Writes a range of ids to `text` as messages show it, "uid 5" or "uids 5-9". Returns `text`. */
const char *un_ids_text(int kind, uint32_t first, uint32_t count, char text[UN_IDS_TEXT_MAX]);

/* ---- compose.c: building an id map from a request -------------------------------------------- */

/* Builds the uid map or the gid map of a request. Stores in `clipped` the parts of the caller's
 * subordinate ranges that are left out, because the caller's user namespace does not map them. */
int un_compose(int kind, const struct un_request *request, const struct un_facts *facts,
               struct un_map *map, struct un_ranges *clipped, struct un_error *err);

/* ---- plan.c: parts of the planning of id maps ------------------------------------------------ */

/* Plans maps of only the caller's own uid and gid, after planning the full request, which has
 * allow_single_id set, has failed with the error `err`. Stores that error in the plan. */
int un_plan_single_id(const struct un_request *request, const struct un_facts *facts,
                      struct un_plan *plan, struct un_error *err);

/* Decides to which ids a process with the ids `uid` and `gid` must switch in the new user
 * namespace, and whether the process must drop its supplementary groups. The maps and the setgroups
 * policy of the plan must be set. Stores the result in the plan. */
void un_plan_become(struct un_plan *plan, uint32_t uid, uint32_t gid);

#endif
