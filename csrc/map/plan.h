/* Parts of planning. Internal. */
#ifndef USERNSCTL_MAP_PLAN_H
#define USERNSCTL_MAP_PLAN_H

#include "include/usernsctl.h"

/* What is left of a request where its ranges can't be had, and that is said to be enough: our own
 * id alone. `err` tells why, and becomes the plan's. */
int un_plan_single_id(const struct un_request *request, const struct un_facts *facts,
                      struct un_plan *plan, struct un_error *err);

/* Fills in who somebody with these ids becomes inside, and whether his groups are to be dropped, by
 * the maps and the policy of the plan. */
void un_plan_become(struct un_plan *plan, uint32_t uid, uint32_t gid);

#endif
