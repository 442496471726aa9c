"""A program that tells at how many of its depths a call maps memory, and returning unmaps it."""

import os

DEPTHS = 300
STATM = os.open("/proc/self/statm", os.O_RDONLY)


def leaf() -> bytes:
    return os.pread(STATM, 64, 0)


# Larger than a frame of walk(), so that no edge of a chunk is passed without a call across it.
leaf.__code__ = leaf.__code__.replace(co_stacksize=100)


def walk(depth: int) -> int:
    # Nothing here needs a frame but leaf().
    within, after = leaf(), os.pread(STATM, 64, 0)
    crosses = int(within.split()[0]) > int(after.split()[0])
    return crosses + (walk(depth - 1) if depth > 1 else 0)


# What the first walk allocates, the second one has.
walk(DEPTHS)
print(walk(DEPTHS))
