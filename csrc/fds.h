#ifndef USERNSCTL_FDS_H
#define USERNSCTL_FDS_H

#include "usernsctl.h"

/* Makes stdio[0..2] descriptors 0 to 2; -1 leaves one as it is. Async-signal-safe. */
int un_place_stdio(const int stdio[3], struct un_error *err);

#endif
