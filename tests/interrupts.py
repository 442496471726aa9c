"""A signal handler that raises an exception, or does something else, after any call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from types import FrameType
from typing import Any

# Where Python calls handlers of signals: after a function in C, and before one in Python.
PLACES = ("c_return", "call")


class Interrupt:
    """Calls a handler at the Nth of some places; a profile function (sys.setprofile())."""

    def __init__(
        self,
        handle: Callable[[], object],
        number: int,
        places: tuple[str, ...] = PLACES,
        names: Container[str] | None = None,
    ) -> None:
        """Count the events in `places`, or only those of functions in C with these names."""
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
    """Call a function, and `handle` at the Nth place of that; return whether it came that far."""
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
    """Call a function, interrupt it at the Nth place, and say whether it came that far."""
    interrupt = Interrupt(raise_interrupt, number, places, names)
    try:
        sys.setprofile(interrupt)
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return interrupt.left <= 0
