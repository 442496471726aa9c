/* What is given up before runsc is executed. Internal. */
#ifndef USERNSCTL_LAUNCH_GIVE_UP_H
#define USERNSCTL_LAUNCH_GIVE_UP_H

#include "launch/launch.h"

/* Gives up what the launch says, for good, and looks whether it is gone. `has_several`: whether the
 * user namespace has more ids than one. */
int un_give_up(struct un_launch *launch, bool has_several, struct un_error *err);

#endif
