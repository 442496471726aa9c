#include "include/usernsctl.h"

const char *un_version(void)
{
    return USERNSCTL_VERSION;
}
