/* Maps and plans. Internal. */
#ifndef USERNSCTL_MAP_H
#define USERNSCTL_MAP_H

#include "include/usernsctl.h"

/* ---- kind.c: what there is of each kind of ids ----------------------------------------------- */

struct un_kind_facts {
    const char *name;        /* "uid" or "gid" */
    const char *subid;       /* the file that grants subordinate ranges (subuid(5), subgid(5)) */
    const char *helper;      /* the program that writes what it grants */
    const char *helper_does; /* that, as a sentence */
    const char *capability;  /* what it takes to write any map ... */
    int cap;                 /* ... and its number */
    const char *privileged;  /* that we have it, as a sentence */
};

/* By enum un_kind. */
extern const struct un_kind_facts un_kinds[2];

/* ---- compose.c: putting a map together from a request ---------------------------------------- */

/* Fills in the map that is asked for, and the ranges that had to be left out of it. */
int un_compose(int kind, const struct un_request *request, const struct un_facts *facts,
               struct un_map *map, struct un_ranges *clipped, struct un_error *err);

/* ---- plan.c: parts of planning --------------------------------------------------------------- */

/* What is left of a request where its ranges can't be had, and that is said to be enough: our own
 * id alone. `err` tells why, and becomes the plan's. */
int un_plan_single_id(const struct un_request *request, const struct un_facts *facts,
                      struct un_plan *plan, struct un_error *err);

/* Fills in who somebody with these ids becomes inside, and whether his groups are to be dropped, by
 * the maps and the policy of the plan. */
void un_plan_become(struct un_plan *plan, uint32_t uid, uint32_t gid);

#endif
