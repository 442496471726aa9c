"""The activity file of a sandbox, which records whether a command is running.

The watcher, the process that enforces the idle timeout, reads the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from usernsctl._system.descriptors import ClosedError, Shared

# The timeout for taking the lock on the activity file, in seconds. The timeout is short because the
# wait blocks the caller's event loop. The watcher's exclusive lock usually lasts some microseconds,
# but a watcher that kills the sandbox keeps the lock until the sandbox has ended.
_LOCK_SECONDS = 0.1
# The interval between attempts to take the lock, in seconds.
_LOOK_SECONDS = 0.001


class Activity:
    """The record of a running command: the sandbox is not idle until :meth:`end` is called.

    The watcher (csrc/programs/shared/limit_watch.c) enforces the idle timeout, and reads the
    activity file. A shared lock (flock(2)) on the file means that a command is running. The
    modification time of the file is the time, by CLOCK_MONOTONIC, at which the last command exited.
    """

    def __init__(self, file: Shared) -> None:
        """Take ownership of `file`, the open activity file, and take a shared lock on the file.

        If the lock is not free within _LOCK_SECONDS, return without the lock.
        """
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
        """Record that the command has exited; in a forked child, only close the activity file.

        Safe to call repeatedly, and from any thread.
        """
        file = self._file
        with contextlib.suppress(ClosedError), contextlib.closing(file), file.use() as (fd,):
            if os.getpid() == self._owner:
                self._release(fd)

    def _release(self, fd: int) -> None:
        """Set the activity file's modification time to the current time, and release the lock.

        The lock is released even if a signal handler raises an exception. flock(2) is called
        explicitly, since close(2) alone would not release the lock if a forked child has a copy of
        the descriptor.
        """
        now = time.monotonic_ns()
        try:
            with contextlib.suppress(OSError):
                os.utime(fd, ns=(now, now))
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
