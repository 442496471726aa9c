/* What our child program does. Internal. */
#ifndef USERNSCTL_CHILD_ENTER_H
#define USERNSCTL_CHILD_ENTER_H

#include "child/task.h"

/* Does what the words say, with the environment of the command, and ends. Any static program of
 * ours may serve as the child program, by calling this first of all if it is called UN_CHILD_NAME.
 */
_Noreturn void un_child_main(char **words, char **environment);

#endif
