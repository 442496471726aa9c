"""Signal handlers that run, or raise an exception, after any function call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from types import FrameType
from typing import Any

# Events after which Python runs signal handlers: the return of a C function, and the call of a
# Python function.
PLACES = ("c_return", "call")


class Interrupt:
    """Profile function (sys.setprofile()) that calls a handler at the Nth event of some kinds."""

    def __init__(
        self,
        handle: Callable[[], object],
        number: int,
        places: tuple[str, ...] = PLACES,
        names: Container[str] | None = None,
    ) -> None:
        """Count the events in `places`; with `names`, only calls of these C functions."""
        self.left = number
        self._names = names
        self._handle = handle
        self._places = places

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        name = getattr(argument, "__name__", None)
        if event in self._places and (self._names is None or name in self._names):
            self.left -= 1
            if self.left == 0:
                self._handle()


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def run_handled(run: Callable[[], object], handle: Callable[[], object], number: int) -> bool:
    """Call a function, and `handle` at its Nth event; return whether there was an Nth event."""
    interrupt = Interrupt(handle, number)
    try:
        sys.setprofile(interrupt)
        run()
    finally:
        sys.setprofile(None)
    return interrupt.left <= 0


def run_interrupted(
    run: Callable[[], object],
    number: int,
    places: tuple[str, ...] = PLACES,
    names: Container[str] | None = None,
) -> bool:
    """Call a function, and interrupt it at its Nth event; return whether there was an Nth event."""
    interrupt = Interrupt(raise_interrupt, number, places, names)
    try:
        sys.setprofile(interrupt)
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return interrupt.left <= 0
