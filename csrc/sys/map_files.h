/* setgroups, uid_map and gid_map of a process. Internal. */
#ifndef USERNSCTL_SYS_MAP_FILES_H
#define USERNSCTL_SYS_MAP_FILES_H

#include "sys/own_maps.h"

/* What of a plan a process writes itself, with the texts in `text`. */
void un_own_maps_of(const struct un_plan *plan, char text[2][UN_MAP_TEXT_MAX],
                    struct un_own_maps *maps);

/* Reads whether setgroups(2) is permitted: UN_SETGROUPS_ALLOW or _DENY. */
int un_setgroups_read(int dir, int *setgroups, struct un_error *err);

#endif
