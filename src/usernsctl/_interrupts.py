"""Handling of Ctrl-C while usernsctl starts: exit silently, as there is nothing to clean up yet."""

from __future__ import annotations

import os
import signal

# Type checkers treat this as true. Importing it from typing would delay the start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

STATUS = 128 + signal.SIGINT
"""Exit status of usernsctl after SIGINT, the same as a shell's."""


def end_at_once() -> None:
    """Make SIGINT exit this process with :data:`STATUS`, unless SIGINT is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Undo :func:`end_at_once`, so that SIGINT raises KeyboardInterrupt for cleanup."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(STATUS)
