/* What there is of each kind of ids. Internal. */
#ifndef USERNSCTL_MAP_KIND_H
#define USERNSCTL_MAP_KIND_H

#include "include/usernsctl.h"

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

#endif
