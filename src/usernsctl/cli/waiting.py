"""Functions that wait for a command, and forward signals to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Protocol

from usernsctl import _core

#: The signals that request termination, as listed in un_is_terminating() (csrc/sys/pass_on.c).
TERMINATING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (*TERMINATING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


class Started(Protocol):
    """The interface of a running command that this module requires."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal to the command."""

    def wait(self) -> int:
        """Wait until the command exits; return its exit status, or -N if signal N killed it."""


def _handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Set a handler for the signals to forward, except signals that this process ignores.

    For example, a process that nohup(1) has started ignores SIGHUP, and so do its children.
    """
    for number in _FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def supervise(start: Callable[[], int]) -> int:
    """Start a child, and wait for the child as ``usernsctl-exec --fork`` does.

    The child receives each signal of the terminal once: from the kernel or from this process.

    :param start: a function that starts the child, and returns the pid of the child.
    :returns: the exit status of the child, or 128+N if signal N killed the child.
    """
    early: list[int] = []
    _handle_signals(lambda number, _: early.append(number))
    child = start()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for number in early:
        os.kill(child, number)
    return _shell_status(os.waitstatus_to_exitcode(_core.supervise_child(child)))


def exit_status(start: Callable[[], Started]) -> int:
    """Run a command, forward signals to it, return its exit status (128+N if killed by signal N).

    A terminating signal during `start` aborts the start. Other signals during `start` are forwarded
    to the command once it has started.

    :raises SystemExit: signal N aborted the start; the status is 128+N.
    """
    started: list[Started] = []
    early: list[int] = []
    aborted_by: list[int] = []

    def forward(number: int, frame: object) -> None:
        if started:
            started[0].send_signal(number)
        elif number in TERMINATING:
            # Also record the signal: if this handler runs during a finalizer, Python discards
            # SystemExit.
            aborted_by.append(number)
            raise SystemExit(128 + number)
        else:
            early.append(number)

    _handle_signals(forward)
    child = start()
    if aborted_by:
        raise SystemExit(128 + aborted_by[0])
    started.append(child)
    for missed in early:
        child.send_signal(missed)
    return _shell_status(child.wait())


def _shell_status(status: int) -> int:
    return status if status >= 0 else 128 - status
