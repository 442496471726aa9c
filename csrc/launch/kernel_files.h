/* Files that act on the kernel. Internal. */
#ifndef USERNSCTL_LAUNCH_KERNEL_FILES_H
#define USERNSCTL_LAUNCH_KERNEL_FILES_H

#include "launch/launch.h"

/* Refuses to have a program inside write to what acts on the kernel, by a source that was opened
 * here: whoever hands descriptors in has looked at them. Devices are no such files. */
int un_refuse_kernel_files(struct un_launch *launch, struct un_error *err);

#endif
