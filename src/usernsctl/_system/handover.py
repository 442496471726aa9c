"""Descriptors and signals of a process that is about to execute another program."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable


def set_inheritable(fds: Iterable[int]) -> None:
    """Let an exec pass on standard input, output and error, and of the others only `fds`.

    Nothing is closed before the exec, which may fail.

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
    """Close inherited descriptors, but for standard input, output and error.

    They are not close-on-exec, unlike those that Python opens.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))


# The signals that the caller ignored, and that have their default action in this process.
_IGNORED: set[int] = set()


def default_sigchld() -> None:
    """Give SIGCHLD its default action: if it is ignored, the exit status of children is lost."""
    if signal.signal(signal.SIGCHLD, signal.SIG_DFL) == signal.SIG_IGN:
        _IGNORED.add(signal.SIGCHLD)


def restore_signals() -> None:
    """Undo :func:`default_sigchld`, and stop ignoring what Python ignores, before an exec.

    SIGXFSZ is caught, so that a write past RLIMIT_FSIZE fails until the exec, which gives a caught
    signal its default action.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, _bear)


def _bear(_number: int, _frame: object) -> None:
    """Do nothing: the call that was interrupted fails."""
