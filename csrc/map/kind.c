#include "map/map.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>

const struct un_kind_facts un_kinds[2] = {
    [UN_UID] = {.name = "uid",
                .subid = "/etc/subuid",
                .helper = "newuidmap",
                .helper_does = "newuidmap writes what /etc/subuid grants",
                .capability = "CAP_SETUID",
                .cap = CAP_SETUID,
                .privileged = "the caller has CAP_SETUID"},
    [UN_GID] = {.name = "gid",
                .subid = "/etc/subgid",
                .helper = "newgidmap",
                .helper_does = "newgidmap writes what /etc/subgid grants",
                .capability = "CAP_SETGID",
                .cap = CAP_SETGID,
                .privileged = "the caller has CAP_SETGID"},
};

const char *un_ids_text(int kind, uint32_t first, uint32_t count, char text[UN_IDS_TEXT_MAX])
{
    const char *name = un_kinds[kind].name;
    if (count == 1)
        snprintf(text, UN_IDS_TEXT_MAX, "%s %" PRIu32, name, first);
    else
        snprintf(text, UN_IDS_TEXT_MAX, "%ss %" PRIu32 "-%" PRIu32, name, first, first + count - 1);
    return text;
}
