"""Waiting for a command while signals are forwarded to the command."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


class Started(Protocol):
    """Interface of a running command."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal to the command."""

    def wait(self) -> int:
        """Wait until the command exits; return its exit status, or -N after signal N."""


def exit_status(start: Callable[[], Started], *, may_be_long: bool = False) -> int:
    """Run a command, forward signals to it, and return its exit status, or 128+N after signal N.

    :param may_be_long: whether a terminating signal during `start` aborts the start. Otherwise the
        signal is forwarded to the command after the start.
    :raises SystemExit: signal N aborted the start; the status is 128+N.
    """
    started: list[Started] = []
    early: list[int] = []
    aborted_by: list[int] = []

    def forward(number: int, frame: object) -> None:
        if started:
            started[0].send_signal(number)
        elif may_be_long and number in _ENDING:
            # Record the signal, because Python drops an exception of the handler that is raised in
            # a finalizer.
            aborted_by.append(number)
            raise SystemExit(128 + number)
        else:
            early.append(number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    child = start()
    if aborted_by:
        raise SystemExit(128 + aborted_by[0])
    started.append(child)
    for missed in early:
        child.send_signal(missed)
    status = child.wait()
    return status if status >= 0 else 128 - status
