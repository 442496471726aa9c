/* Putting a map together from a request. Internal. */
#ifndef USERNSCTL_MAP_COMPOSE_H
#define USERNSCTL_MAP_COMPOSE_H

#include "include/usernsctl.h"

/* Fills in the map that is asked for, and the ranges that had to be left out of it. */
int un_compose(int kind, const struct un_request *request, const struct un_facts *facts,
               struct un_map *map, struct un_ranges *clipped, struct un_error *err);

#endif
