/* usernsctl-child: enters namespaces in place of a caller, and becomes a command; see
 * child/enter.c. */
#include "child/child.h"

int main(int argc, char **argv, char **environment)
{
    (void)argc;
    un_child_main(argv, environment);
}
