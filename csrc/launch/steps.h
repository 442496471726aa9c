/* The steps of a launch on the root filesystem, each by its record. Internal. */
#ifndef USERNSCTL_LAUNCH_STEPS_H
#define USERNSCTL_LAUNCH_STEPS_H

#include "launch/launch.h"

typedef int un_step_taker(struct un_launch *launch, const struct un_record *record,
                          struct un_error *err);

/* What of the machine is shown (shown.c). */
un_step_taker un_step_machine, un_step_snapshot, un_step_guarded, un_step_tree,
    un_step_hide_private;
/* What is made (made.c). */
un_step_taker un_step_directory, un_step_link, un_step_resolver;
/* What comes to a place inside (bound.c). */
un_step_taker un_step_file, un_step_bind, un_step_mount;
/* What lies beside the root filesystem (files.c). */
un_step_taker un_step_make, un_step_tmpfs, un_step_touch, un_step_discard;
un_step_taker un_step_debug_log, un_step_program, un_step_program_link;

/* Has an empty directory in place of a home (home.c). */
int un_hide_home(struct un_launch *launch, const char *home, struct un_error *err);

#endif
