/* usernsctl-child: enters namespaces in place of a caller, and becomes a command; see inside.c. */
#include "inside.h"

int main(int argc, char **argv)
{
    (void)argc;
    un_child_main(argv);
}
