#ifndef USERNSCTL_SYS_STDIO_H
#define USERNSCTL_SYS_STDIO_H

/*
 * Has standard input, output and error, as far as they are pipes or terminals, be open files of our
 * own, which nobody else shares: what is done to their flags then is done to ours alone. One that
 * can't be opened anew, such as a pipe of another user's, stays as it is. Async-signal-safe.
 */
void un_own_stdio(void);

#endif
