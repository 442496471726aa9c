"""Program that counts the call depths at which a call maps memory and the return unmaps it again.

CPython maps another chunk for its stack when a call's frame does not fit into the last chunk.
"""

import os

DEPTHS = 300
STATM = os.open("/proc/self/statm", os.O_RDONLY)


def leaf() -> bytes:
    return os.pread(STATM, 64, 0)


# leaf() needs a larger frame than walk(): at a depth at which only the smaller frame fits into the
# last chunk, the call of leaf() maps another chunk, and its return unmaps the chunk.
leaf.__code__ = leaf.__code__.replace(co_stacksize=100)


def walk(depth: int) -> int:
    # Read the memory size twice: within the Python frame of leaf(), and after its return, since
    # calling os.pread() needs no Python frame.
    within, after = leaf(), os.pread(STATM, 64, 0)
    crosses = int(within.split()[0]) > int(after.split()[0])
    return crosses + (walk(depth - 1) if depth > 1 else 0)


# Let the later call of walk() reuse the memory that this first call allocates.
walk(DEPTHS)
print(walk(DEPTHS))
