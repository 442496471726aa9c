"""Ctrl-C while the command starts: it ends without a word, as nothing is there to clean up yet."""

from __future__ import annotations

import os
import signal

# To type checkers this is true; the module that has it is not needed otherwise.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

STATUS = 128 + signal.SIGINT
"""The exit status of a command of ours that SIGINT has ended, as a shell would tell it."""


def end_at_once() -> None:
    """Have SIGINT end this process with :data:`STATUS`, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Undo :func:`end_at_once`: from now on, there may be something to clean up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(STATUS)
