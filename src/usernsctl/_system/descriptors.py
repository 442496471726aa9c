"""Waiting for descriptors, such as pidfds, which are readable once their process has ended."""

from __future__ import annotations

import contextlib
import math
import os
import select
from collections.abc import Iterator, Sequence


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


class LetGoError(ValueError):
    """Descriptors that were to be used were let go of."""


class Shared:
    """Descriptors that are closed once they were let go of and nobody uses them any more.

    Any thread may use and close them at any time, and so may a handler of signals that has
    interrupted one of these methods. So there is no lock, which such a handler would wait for in
    vain: what is done in one step here is one step for all threads (list.pop, set.add).
    """

    def __init__(self, what: str, fds: Sequence[int]) -> None:
        """Take over descriptors; -1 stands for none.

        :param what: what they are, for the error that it is closed.
        """
        self._what = what
        self._fds = list(fds)
        self._unclosed = [self._fds]
        self._users: set[object] = set()
        self._let_go = False

    @property
    def closed(self) -> bool:
        """Whether they were let go of; they are still open for those who use them."""
        return self._let_go

    @contextlib.contextmanager
    def use(self) -> Iterator[Sequence[int]]:
        """Keep them from being closed, and their numbers from being used again.

        :raises LetGoError: they were let go of.
        """
        user = object()
        try:
            # In this order: whoever lets go of them after the look sees that there is a user.
            self._users.add(user)
            if self._let_go:
                raise LetGoError(f"{self._what} is closed")
            yield self._fds
        finally:
            self._users.discard(user)
            self._close_if_unused()

    def close(self) -> None:
        """Let go of them."""
        self._let_go = True
        self._close_if_unused()

    def __del__(self) -> None:
        # Who uses them has this object.
        if hasattr(self, "_users"):
            self.close()

    def _close_if_unused(self) -> None:
        if not self._let_go or self._users:
            return
        with contextlib.suppress(IndexError):  # somebody else was faster
            for fd in self._unclosed.pop():
                if fd >= 0:
                    os.close(fd)
