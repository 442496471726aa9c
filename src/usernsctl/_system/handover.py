"""What a process sees to before it executes something, or enters a namespace to do so."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable


def set_inheritable(fds: Iterable[int]) -> None:
    """Have an exec pass on standard input, output and error, and of the others only `fds`.

    Nothing is closed before that: the exec may fail, and this process go on.

    :raises OSError: one of `fds` is not open.
    """
    for name in os.listdir("/proc/self/fd"):
        # The listing has itself in it, closed by now.
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)
    for fd in fds:
        os.set_inheritable(fd, True)


def close_inherited() -> None:
    """Close what this process was started with, but for standard input, output and error.

    Python makes whatever it opens itself close-on-exec.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))


# The signals that the caller has ignored, and this process does not.
_IGNORED: set[int] = set()


def default_sigchld() -> None:
    """Give SIGCHLD its default action: where it is ignored, nobody learns how children end."""
    if signal.signal(signal.SIGCHLD, signal.SIG_DFL) == signal.SIG_IGN:
        _IGNORED.add(signal.SIGCHLD)


def restore_signals() -> None:
    """Undo what Python ignores, and :func:`default_sigchld`: a command would inherit both.

    Until there is a command, a write past RLIMIT_FSIZE is to fail, not to kill us without a word;
    what is executed has the default action of a signal that is caught.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, _bear)


def _bear(_number: int, _frame: object) -> None:
    """Do nothing: the call that was interrupted fails."""
