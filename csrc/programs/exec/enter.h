/* Deciding on the namespaces, and moving into them. Internal. */
#ifndef USERNSCTL_EXEC_ENTER_H
#define USERNSCTL_EXEC_ENTER_H

#include "include/usernsctl.h"

/* What is planned, and of what: more than a small stack holds. */
struct decision {
    struct un_facts facts;
    struct un_plan plan;
};

/* Plans what is asked for. `path` is where helpers are looked for, directories separated by colons;
 * NULL: where the system has its programs. */
int un_exec_plan(const struct un_request *request, const char *path, struct decision *decision,
                 struct un_error *err);
/* Moves this process into new namespaces, as planned, and has `setup` become who is planned unless
 * it says so itself. Descriptors that nobody inside may take are to be closed before. */
int un_exec_enter(const struct decision *decision, uint64_t flags, struct un_setup *setup,
                  struct un_error *err);

#endif
