/* Opening /dev/null. Internal. */
#ifndef USERNSCTL_SYS_NULL_DEVICE_H
#define USERNSCTL_SYS_NULL_DEVICE_H

/* Opens /dev/null with `mode`, such as O_RDWR, close-on-exec. Never waits, and takes nothing but
 * the device: root in the namespaces that this process is in may have mounted anything there, such
 * as a FIFO. -1 with errno; ENODEV: another file. */
int un_open_null(int mode);

#endif
