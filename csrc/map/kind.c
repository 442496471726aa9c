#include "map/map.h"

#include <linux/capability.h>

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
