"""Tests of the forwarding of signals to a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from usernsctl.cli import waiting
from usernsctl.cli.waiting import exit_status


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the signal handlers after a test."""
    old = {number: signal.getsignal(number) for number in waiting._FORWARDED}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


class Child:
    """Fake command that has ended."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, sig: int, /) -> None:
        self.signals.append(sig)

    def wait(self) -> int:
        return 7


class Dropping:
    """Object whose finalizer raises, which Python ignores."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def begun(child: Child) -> Child:
    """Raise SIGTERM in a finalizer, where Python ignores exceptions; return the fake command."""
    Dropping()
    return child


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_start_is_given_up_wherever_the_signal_is_heard() -> None:
    child = Child()
    with pytest.raises(SystemExit) as ended:
        exit_status(lambda: begun(child), may_be_long=True)
    assert (ended.value.code, child.signals) == (128 + signal.SIGTERM, [])


def test_a_signal_that_comes_during_a_short_start_is_the_command_s() -> None:
    child = Child()
    assert exit_status(lambda: begun(child)) == 7
    assert child.signals == [signal.SIGTERM]
