"""The file that shows the watcher of a sandbox with an idle timeout whether a command runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from io import FileIO

# The time limit for the lock, in seconds. The watcher has it for some microseconds, or until the
# end of the sandbox.
_LOCK_SECONDS = 1
_LOOK_SECONDS = 0.001


class Activity:
    """A running command of a sandbox, which the watcher does not end as idle until :meth:`end`.

    csrc/programs/shared/limit_watch.c reads the file: a shared lock (flock(2)) means a running
    command, and the time of modification is the end of the last one, by CLOCK_MONOTONIC.
    """

    def __init__(self, file: FileIO) -> None:
        """Lock the activity file of the sandbox, which this object closes."""
        self._file = file
        self._owner = os.getpid()
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(_LOOK_SECONDS)

    def end(self) -> None:
        """Release the lock, unless this is a forked child. Any thread may call this repeatedly."""
        # The file is closed, or the directory of the sandbox was removed.
        with contextlib.suppress(ValueError, OSError):
            if os.getpid() == self._owner:
                now = time.monotonic_ns()
                os.utime(self._file.fileno(), ns=(now, now))
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
