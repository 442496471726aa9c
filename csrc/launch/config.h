/* The config.json of a launch. Internal. */
#ifndef USERNSCTL_LAUNCH_CONFIG_H
#define USERNSCTL_LAUNCH_CONFIG_H

#include "launch/json.h"
#include "launch/launch.h"

/* Puts it together, with the maps of the user namespace, of which `maps` may be NULL if no record
 * asks for them. The text is to be freed in any case. */
int un_config_text(struct un_launch *launch, const struct un_moment *moment,
                   const struct un_idmap *maps, struct un_text *text, struct un_error *err);
/* Writes it to bundle/config.json in scratch; nothing if the launch has none. */
int un_config_write(struct un_launch *launch, const struct un_moment *moment,
                    const struct un_idmap *maps, struct un_error *err);
/* How many ids of a kind there are in a map. */
uint64_t un_map_ids(const struct un_map *map);

#endif
