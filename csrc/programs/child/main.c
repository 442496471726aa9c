/* usernsctl-child enters namespaces for the program that started it, and executes a command there.
 * See child/enter.c. */
#include "child/child.h"

int main(int argc, char **argv, char **environment)
{
    (void)argc;
    un_child_main(argv, environment);
}
