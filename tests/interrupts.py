"""Signal handlers and profile functions that interrupt code at a given event or time."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
from collections.abc import Callable, Container, Iterator
from types import FrameType
from typing import Any

from conftest import open_descriptors

# Events after which Python runs signal handlers: a C function's return, and a Python function's
# call.
PLACES = ("c_return", "call")


@contextlib.contextmanager
def alarm(handle: Callable[..., object], seconds: float, interval: float = 0) -> Iterator[None]:
    """Handle SIGALRM by `handle` during a ``with`` block.

    A timer sends the signal after `seconds`, and then every `interval` seconds.

    :param seconds: the time until the first signal, in seconds; 0 for no timer.
    :param interval: the time between the signals, in seconds; 0 for a single signal.
    """
    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, interval)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def handled(do: Callable[[], object], seconds: float) -> Iterator[list[Any]]:
    """Call `do` at each SIGALRM during a ``with`` block; yield the list of its results.

    :param seconds: time until a timer sends SIGALRM, or 0 for no timer.
    """
    results: list[Any] = []
    with alarm(lambda *_: results.append(do()), seconds):
        yield results


class Interrupt:
    """Profile function (sys.setprofile()) that calls a handler at the Nth matching event."""

    def __init__(
        self,
        handle: Callable[[], object],
        number: int,
        places: tuple[str, ...] = PLACES,
        names: Container[str] | None = None,
    ) -> None:
        """Count the events in `places`, or only those of the C functions `names`, if given."""
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
    """Call `run`, and call `handle` at the Nth event; return whether N events occurred."""
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
    """Call `run`; raise KeyboardInterrupt at the Nth event; return whether N events occurred."""
    interrupt = Interrupt(raise_interrupt, number, places, names)
    try:
        sys.setprofile(interrupt)
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return interrupt.left <= 0


def interrupt_each(run: Callable[[], object], *names: str, minimum: int = 1) -> None:
    """Interrupt `run` after each call of the C functions `names` (by default all), one per run.

    Check that no run leaks a descriptor, and that at least `minimum` runs were interrupted.
    """
    run()
    before = open_descriptors()
    for call in itertools.count(1):
        was_interrupted = run_interrupted(run, call, places=("c_return",), names=names or None)
        after = open_descriptors()
        assert after == before, (call, after ^ before)
        if not was_interrupted:
            break
    assert call > minimum
