/* The version of the core is the version of the package. */
#include "include/usernsctl.h"

const char *un_version(void)
{
    return USERNSCTL_VERSION;
}
