"""What a command inside gets as its standard input, output and error.

gVisor makes what it is given nonblocking, for all who have the same open file, and takes for
nonblocking what is so already. So the command gets open files that nobody else has.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from io import FileIO

from usernsctl import _core
from usernsctl._system.owned import owned

_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def closed_streams() -> frozenset[int]:
    """Which of our own standard input, output and error are not open."""
    return frozenset(fd for fd in (0, 1, 2) if not _is_open(fd))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


class Streams:
    """The three descriptors for a command; those that were opened for it are closed with this."""

    def __init__(self, absent: frozenset[int]) -> None:
        """Begin with none.

        :param absent: which of our own the command gets /dev/null in place of, such as those that
            are not open; others may have their numbers by now.
        """
        self.fds: list[int] = []
        self._absent = absent
        self._opened = contextlib.ExitStack()

    def add(self, given: int, *, is_fresh: bool) -> None:
        """Add the next.

        :param given: a descriptor, or -1: our own.
        :param is_fresh: whether it is of a pipe that was made for this command, and not added yet.
        :raises OSError: it is not open.
        """
        if given < 0:
            given = len(self.fds)
            if given in self._absent:
                self._add_opened(owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC))
                return
        own = None if is_fresh else self._own(given)
        if own is None:
            self.fds.append(given)
        else:
            self._add_opened(own)

    def _add_opened(self, file: FileIO) -> None:
        self.fds.append(self._opened.enter_context(file).fileno())

    def _own(self, fd: int) -> FileIO | None:
        """The same pipe or terminal, opened anew; ``None``: it may be given as it is."""
        mode = os.fstat(fd).st_mode
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if stat.S_ISREG(mode):
            _core.append_at_end(fd)
            return None
        if not stat.S_ISFIFO(mode) and not (stat.S_ISCHR(mode) and os.isatty(fd)):
            return None
        try:
            # A named pipe that nobody has open at its other end would have us wait.
            made = owned(os.open, f"/proc/self/fd/{fd}", (flags & os.O_ACCMODE) | _FLAGS)
        except OSError:
            # Whoever it belongs to does not let us open it.
            return None
        try:
            fcntl.fcntl(made, fcntl.F_SETFL, flags)
        except BaseException:
            made.close()
            raise
        return made

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
