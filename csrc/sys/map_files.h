/* What a process writes about its own new user namespace. Internal. */
#ifndef USERNSCTL_SYS_MAP_FILES_H
#define USERNSCTL_SYS_MAP_FILES_H

#include "include/usernsctl.h"

struct un_own_maps {
    const char *policy; /* for setgroups; NULL: nothing is written there */
    const char *map[2]; /* the kernel's text, by enum un_kind; NULL: nothing is written */
};

/* Those of a plan, with the texts in `text`. */
void un_own_maps_of(const struct un_plan *plan, char text[2][UN_MAP_TEXT_MAX],
                    struct un_own_maps *maps);

/* Writes them. The process must be hidden, and is so all the time but for three calls of open(2).
 */
int un_write_own_maps(const struct un_own_maps *maps, struct un_error *err);

#endif
