"""Deadlines on the clock of :func:`time.monotonic`; None is no deadline."""

from __future__ import annotations

import time


def deadline_after(timeout: float | None) -> float | None:
    """Return the deadline in `timeout` seconds; None without a timeout."""
    return None if timeout is None else time.monotonic() + timeout


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, 0 after it; None without a deadline."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)
