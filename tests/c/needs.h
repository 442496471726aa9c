/* Requirements of C tests. If the host does not meet a requirement of a test, the test is skipped,
 * or fails if the environment variable USERNSCTL_MUST_WORK names the requirement. */
#ifndef NEEDS_H
#define NEEDS_H

#include "forked.h"

#include <sched.h>

static inline int make_user_namespace(void *arg)
{
    (void)arg;
    return unshare(CLONE_NEWUSER) ? errno : 0;
}

/* Skips or fails the test if user namespaces can't be created (docs/pytest.md). */
static inline void need_user_namespaces(void)
{
    int errnum = forked(make_user_namespace, NULL);
    if (errnum == 0)
        return;
    const char *must_work = getenv("USERNSCTL_MUST_WORK");
    bool must = must_work && strstr(must_work, "userns");
    printf("%s: no user namespace can be made: %s\n", must ? "failed" : "skipped",
           strerror(errnum));
    exit(must ? 1 : 0);
}

/* Plans id maps that map this process's uid and gid to `uid` and `gid` in a user namespace. */
static inline void plan_own_ids(uint32_t uid, uint32_t gid, struct un_plan *plan)
{
    struct un_request request;
    struct un_facts facts;
    struct un_error err;
    memset(&request, 0, sizeof request);
    request.id[UN_UID].map_self = request.id[UN_GID].map_self = true;
    request.id[UN_UID].self = uid;
    request.id[UN_GID].self = gid;
    CHECK_OK(un_facts_read(&facts, &err), &err);
    CHECK_OK(un_plan_make(&request, &facts, plan, &err), &err);
}

#endif
