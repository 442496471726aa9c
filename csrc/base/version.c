/* Which version this is: of the core, and so of the package that it comes with. */
#include "include/usernsctl.h"

const char *un_version(void)
{
    return USERNSCTL_VERSION;
}
