/* A user's line in the user database. Internal. */
#ifndef USERNSCTL_FACTS_USER_H
#define USERNSCTL_FACTS_USER_H

#include "base/lines.h"
#include "include/usernsctl.h"

/* Finds the line of passwd(5) of a uid: in the file `passwd`, or by getent(1) along `path`. What is
 * at its end may be cut. False: there is none. */
bool un_user_line(const char *passwd, const char *path, uint32_t uid, char line[UN_LINE_MAX]);

#endif
