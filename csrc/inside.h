/* What our child program does. Internal. */
#ifndef USERNSCTL_INSIDE_H
#define USERNSCTL_INSIDE_H

#include "task.h"

/* Does what the words say, and ends. Any static program of ours may serve as the child program, by
 * calling this first of all if it is called UN_CHILD_NAME. */
_Noreturn void un_child_main(char **words);

#endif
