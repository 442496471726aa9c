"""Signals and descriptors of a process from its start to its exec of another program."""

from __future__ import annotations

import os
import signal

# Type checkers treat this as true. Importing it from typing would delay the start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit status of usernsctl after SIGINT, the same as a shell's."""


def exit_on_interrupt() -> None:
    """Make SIGINT exit this process silently with :data:`INTERRUPTED`, unless SIGINT is ignored.

    While usernsctl starts, there is nothing to clean up yet.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Undo :func:`exit_on_interrupt`, so that SIGINT raises KeyboardInterrupt for cleanup."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)


def set_inheritable(fds: Iterable[int]) -> None:
    """Make `fds` inheritable, and all other descriptors from 3 on close-on-exec.

    No descriptor is closed before the exec, which may fail.

    :raises OSError: one of `fds` is not open.
    """
    import contextlib

    for name in os.listdir("/proc/self/fd"):
        # The list also has the descriptor with which os.listdir() read the directory. That one is
        # closed by now (EBADF).
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)
    for fd in fds:
        os.set_inheritable(fd, True)


def close_inherited() -> None:
    """Close all inheritable descriptors except standard input, output and error.

    Descriptors that Python has opened are close-on-exec (PEP 446), and stay open until the exec.
    """
    import contextlib

    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))


# The signals that were ignored when this process started, and have their default action now.
_IGNORED: set[int] = set()


def default_sigchld() -> None:
    """Set SIGCHLD to its default action, since exit statuses are lost while it is ignored."""
    if signal.signal(signal.SIGCHLD, signal.SIG_DFL) == signal.SIG_IGN:
        _IGNORED.add(signal.SIGCHLD)


def restore_signals() -> None:
    """Restore the signal actions from before the start of Python, just before an exec.

    Python ignores SIGPIPE and SIGXFSZ, and :func:`default_sigchld` changes SIGCHLD. SIGXFSZ gets a
    handler, so that a write past RLIMIT_FSIZE fails with EFBIG until the exec, which then sets the
    default action (execve(2)).
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, _ignore_signal)


def _ignore_signal(_number: int, _frame: object) -> None:
    """Handle SIGXFSZ by doing nothing, so that write(2) fails with EFBIG."""
