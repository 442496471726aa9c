/* Who the command is run as. Internal. */
#ifndef USERNSCTL_EXEC_IDENTITY_H
#define USERNSCTL_EXEC_IDENTITY_H

#include "include/usernsctl.h"

/* Completes what the options say: who we become inside. `alike`: whether our real, effective and
 * saved ids are the same. */
void un_take_identity(const struct un_plan *plan, const struct un_facts *facts, bool alike,
                      struct un_setup *setup);

#endif
