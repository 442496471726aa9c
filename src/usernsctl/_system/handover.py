"""Signal actions and inherited descriptors of a process that will execute another program."""

from __future__ import annotations

import os
import signal

# Define TYPE_CHECKING here, because importing typing would delay the start. Type checkers treat
# this name as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit status of usernsctl after SIGINT, the same as in shells."""


def exit_on_interrupt() -> None:
    """Set a handler of SIGINT that exits with :data:`INTERRUPTED`, unless SIGINT is ignored.

    The handler prints nothing and cleans up nothing. Call :func:`raise_on_interrupt` before
    anything is created that must be cleaned up.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Undo :func:`exit_on_interrupt`, so that SIGINT raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)


def set_inheritable(fds: Iterable[int]) -> None:
    """Make `fds` inheritable, and all other descriptors from 3 on close-on-exec.

    No descriptor is closed before the exec, because the exec may fail.

    :raises OSError: one of `fds` is not open.
    """
    import contextlib

    for name in os.listdir("/proc/self/fd"):
        # Ignore EBADF: the list also contains the descriptor with which os.listdir() has read the
        # directory. os.listdir() has closed this descriptor.
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)
    for fd in fds:
        os.set_inheritable(fd, True)


def close_inherited() -> None:
    """Close all inheritable descriptors except standard input, output and error.

    Descriptors that Python has opened stay open: they are not inheritable (PEP 446).
    """
    import contextlib

    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))


# The signals that were ignored when this process started, but now have their default action.
_IGNORED: set[int] = set()


def default_sigchld() -> None:
    """Set SIGCHLD to its default action: while SIGCHLD is ignored, wait(2) loses exit statuses."""
    if signal.signal(signal.SIGCHLD, signal.SIG_DFL) == signal.SIG_IGN:
        _IGNORED.add(signal.SIGCHLD)


def restore_signals() -> None:
    """Restore, just before execve(2), the signal actions that Python and usernsctl have changed.

    Python ignores SIGPIPE and SIGXFSZ, and :func:`default_sigchld` changes SIGCHLD. SIGXFSZ gets a
    handler that does nothing, so that a write past RLIMIT_FSIZE before the execve(2) still fails
    with EFBIG. execve(2) replaces the handler with the default action.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, _ignore_signal)


def _ignore_signal(_number: int, _frame: object) -> None:
    """Do nothing. With this handler of SIGXFSZ, write(2) fails with EFBIG."""
