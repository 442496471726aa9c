"""The activity file of a sandbox, by which an idle timeout's watcher detects running commands."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from usernsctl._system.descriptors import ClosedError, Shared

# The time limit of the wait for the lock on the activity file, in seconds. The wait blocks a
# caller's event loop. Usually, the watcher holds the lock for some microseconds. When it kills the
# sandbox, it holds the lock until the sandbox has ended, and no command can start.
_LOCK_SECONDS = 0.1
_LOOK_SECONDS = 0.001


class Activity:
    """A running command of a sandbox; until :meth:`end` is called, the sandbox is not idle.

    The watcher (csrc/programs/shared/limit_watch.c) reads the activity file. A shared lock
    (flock(2)) on the file means that a command is running. The modification time of the file is the
    time, by CLOCK_MONOTONIC, at which the last command exited.
    """

    def __init__(self, file: Shared) -> None:
        """Lock the activity file `file` of the sandbox; this object closes it."""
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
        """Release the lock, unless in a forked child. Any thread may call this repeatedly."""
        file = self._file
        with contextlib.suppress(ClosedError), contextlib.closing(file), file.use() as (fd,):
            if os.getpid() == self._owner:
                self._release(fd)

    def _release(self, fd: int) -> None:
        """Write the current time into the activity file, and release the lock.

        A signal handler may raise at any time. The lock is released explicitly, since close(2)
        alone would not release the lock if a forked child has a copy of the descriptor.
        """
        now = time.monotonic_ns()
        try:
            with contextlib.suppress(OSError):
                os.utime(fd, ns=(now, now))
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
