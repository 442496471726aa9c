"""Program that counts the call depths at which a call maps memory and its return unmaps it."""

import os

DEPTHS = 300
STATM = os.open("/proc/self/statm", os.O_RDONLY)


def leaf() -> bytes:
    return os.pread(STATM, 64, 0)


# A frame of leaf() must be larger than a frame of walk(), so that leaf() is the call that needs a
# new chunk of the interpreter's stack.
leaf.__code__ = leaf.__code__.replace(co_stacksize=100)


def walk(depth: int) -> int:
    # A call of leaf() needs a Python frame; a call of os.pread() does not.
    within, after = leaf(), os.pread(STATM, 64, 0)
    crosses = int(within.split()[0]) > int(after.split()[0])
    return crosses + (walk(depth - 1) if depth > 1 else 0)


# The second walk reuses the memory that the first walk has allocated.
walk(DEPTHS)
print(walk(DEPTHS))
