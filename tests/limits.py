"""Context manager that leaves the test process only some free descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process only `count` free descriptors during a ``with`` block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ballast = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        with contextlib.suppress(OSError):
            while True:
                ballast.append(os.dup(0))
        for _ in range(count):
            os.close(ballast.pop())
        yield
    finally:
        for fd in ballast:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
