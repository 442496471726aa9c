"""Commands that this process waits for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_PASSED_ON = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


class Started(Protocol):
    """A command that can be waited for."""

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal."""

    def wait(self) -> int:
        """Wait for its end; its exit status, or -N after signal N."""


def exit_status(start: Callable[[], Started], *, may_be_long: bool = False) -> int:
    """Start a command, wait for it, and pass our signals on to it; its exit status, or 128+N.

    :param may_be_long: whether the start is given up if a signal comes meanwhile that ends
        programs. If not, such a signal is the command's, too.
    :raises SystemExit: it was given up, with 128+N.
    """
    started: list[Started] = []
    early: list[int] = []
    given_up: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        if started:
            started[0].send_signal(number)
        elif may_be_long and number in _ENDING:
            # This may come up where exceptions are dropped, such as in a finalizer.
            given_up.append(number)
            raise SystemExit(128 + number)
        else:
            early.append(number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    child = start()
    if given_up:
        raise SystemExit(128 + given_up[0])
    started.append(child)
    for missed in early:
        child.send_signal(missed)
    status = child.wait()
    return status if status >= 0 else 128 - status
