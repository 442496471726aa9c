#ifndef USERNSCTL_BASE_WRITE_H
#define USERNSCTL_BASE_WRITE_H

#include <stddef.h>

/* Writes all of it, in as many pieces as that takes. Returns 0, or -1 with errno. */
int un_write_all(int fd, const char *from, size_t size);

#endif
