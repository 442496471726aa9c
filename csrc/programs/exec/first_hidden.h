/* For what comes before libc: all that it uses is in the same program. */
#pragma GCC visibility push(hidden)
