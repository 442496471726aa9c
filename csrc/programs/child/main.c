/* usernsctl-child: enters namespaces on behalf of a caller, and executes a command; see
 * child/enter.c. */
#include "child/child.h"

int main(int argc, char **argv, char **environment)
{
    (void)argc;
    un_child_main(argv, environment);
}
