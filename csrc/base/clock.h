/* Time that only goes on: what deadlines are made of. */
#ifndef USERNSCTL_BASE_CLOCK_H
#define USERNSCTL_BASE_CLOCK_H

#include <stdint.h>

/* By CLOCK_MONOTONIC. */
int64_t un_now_ms(void);

#endif
