"""The file that shows the watcher of a sandbox with an idle timeout whether a command runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from usernsctl._system.descriptors import ClosedError, Shared

# The time limit for the lock, in seconds. The watcher has it for some microseconds, or until the
# end of the sandbox, in which no command starts then. The wait blocks the event loop of a caller.
_LOCK_SECONDS = 0.1
_LOOK_SECONDS = 0.001


class Activity:
    """A running command of a sandbox, which the watcher does not end as idle until :meth:`end`.

    csrc/programs/shared/limit_watch.c reads the file: a shared lock (flock(2)) means a running
    command, and the time of modification is the end of the last one, by CLOCK_MONOTONIC.
    """

    def __init__(self, file: Shared) -> None:
        """Lock the activity file of the sandbox, which this object closes."""
        self._file = file
        self._owner = os.getpid()
        deadline = time.monotonic() + _LOCK_SECONDS
        with file.use() as (fd,):
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        return
                    time.sleep(_LOOK_SECONDS)

    def end(self) -> None:
        """Release the lock, unless this is a forked child. Any thread may call this repeatedly."""
        file = self._file
        with contextlib.suppress(ClosedError), contextlib.closing(file), file.use() as (fd,):
            if os.getpid() == self._owner:
                self._release(fd)

    def _release(self, fd: int) -> None:
        """Write the time into the file, and release the lock.

        A signal handler may raise at any time. close(2) alone would not release the lock if a
        forked child has a copy of the descriptor.
        """
        now = time.monotonic_ns()
        try:
            with contextlib.suppress(OSError):
                os.utime(fd, ns=(now, now))
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
