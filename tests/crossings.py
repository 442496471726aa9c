"""Program that counts the depths at which a call maps memory and its return unmaps that memory."""

import os

DEPTHS = 300
STATM = os.open("/proc/self/statm", os.O_RDONLY)


def leaf() -> bytes:
    return os.pread(STATM, 64, 0)


# A frame of leaf() is larger than one of walk(), so that leaf() is first to need a new chunk.
leaf.__code__ = leaf.__code__.replace(co_stacksize=100)


def walk(depth: int) -> int:
    # A call of leaf() needs a frame; a call of os.pread() needs none.
    within, after = leaf(), os.pread(STATM, 64, 0)
    crosses = int(within.split()[0]) > int(after.split()[0])
    return crosses + (walk(depth - 1) if depth > 1 else 0)


# The second walk uses the memory that the first one has allocated.
walk(DEPTHS)
print(walk(DEPTHS))
