"""A handler of signals that raises an exception after any call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# Where Python calls handlers of signals: after a function in C, and before one in Python.
PLACES = ("c_return", "call")


class Interrupt:
    """Raises KeyboardInterrupt at the Nth of some places, as a handler of signals would."""

    def __init__(self, number: int, places: tuple[str, ...]) -> None:
        self.left = number
        self._places = places

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in self._places:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def run_interrupted(
    run: Callable[[], object], number: int, places: tuple[str, ...] = PLACES
) -> bool:
    """Call a function, interrupt it at the Nth place, and say whether it came that far."""
    interrupt = Interrupt(number, places)
    try:
        sys.setprofile(interrupt)
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return interrupt.left <= 0
