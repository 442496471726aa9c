/*
 * What usernsctl-exec does before libc is started.
 *
 * To start libc takes longer than to make a namespace: it asks the processor for its features,
 * which a virtual machine answers one after the other. So the program begins with a part that has
 * no libc, and is made of the same sources as usernsctl-child. It does what is asked for most: it
 * is the child program, and it enters a namespace whose maps it writes itself. Whatever else is
 * asked for, it leaves to main(), before it has changed anything. Internal.
 */
#ifndef USERNSCTL_EXEC_FIRST_H
#define USERNSCTL_EXEC_FIRST_H

/* Returns if there is something left to do for main(). */
void un_first(int argc, char **argv, char **environment);

#endif
