"""Program that counts the call depths at which a call maps memory that its return unmaps."""

import os

DEPTHS = 300
STATM = os.open("/proc/self/statm", os.O_RDONLY)


def leaf() -> bytes:
    return os.pread(STATM, 64, 0)


# leaf() needs a larger frame than walk(), so that a new chunk of the interpreter's stack is
# allocated for leaf().
leaf.__code__ = leaf.__code__.replace(co_stacksize=100)


def walk(depth: int) -> int:
    # leaf() has a Python frame, and os.pread() has none.
    within, after = leaf(), os.pread(STATM, 64, 0)
    crosses = int(within.split()[0]) > int(after.split()[0])
    return crosses + (walk(depth - 1) if depth > 1 else 0)


# The first walk allocates memory that the second one reuses.
walk(DEPTHS)
print(walk(DEPTHS))
