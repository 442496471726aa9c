/* The version of the core, which equals the version of the package. */
#include "include/usernsctl.h"

const char *un_version(void)
{
    return USERNSCTL_VERSION;
}
