/* The version of the core, which is that of the package. */
#include "include/usernsctl.h"

const char *un_version(void)
{
    return USERNSCTL_VERSION;
}
