"""Waiting for descriptors, such as pidfds, which are readable once their process has ended."""

from __future__ import annotations

import math
import select


def wait_readable(*fds: int, timeout: float | None = None) -> bool:
    """Wait until one of these descriptors can be read, or has come to its end.

    Not by select(2), which knows descriptors below 1024 only.

    :param timeout: how long, in seconds; ``None``: without an end.
    :returns: whether one can be, within that time.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else math.ceil(max(timeout, 0) * 1000)))
