"""Tests of forwarding signals to a command that usernsctl waits for."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from usernsctl.cli import waiting
from usernsctl.cli.waiting import exit_status


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore this process's signal handlers after the test."""
    old = {number: signal.getsignal(number) for number in waiting._FORWARDED}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


class Child:
    """Fake command that has exited with status 7."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, sig: int, /) -> None:
        self.signals.append(sig)

    def wait(self) -> int:
        return 7


class SignalFinalizer:
    """Object whose finalizer raises SIGTERM; Python discards exceptions in finalizers."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def start_and_signal(child: Child) -> Child:
    """Raise SIGTERM in a finalizer while a command starts; return the fake command."""
    SignalFinalizer()
    return child


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sigterm_ends_a_long_start_with_143() -> None:
    child = Child()
    with pytest.raises(SystemExit) as ended:
        exit_status(lambda: start_and_signal(child))
    assert (ended.value.code, child.signals) == (128 + signal.SIGTERM, [])


def start_and_raise(child: Child, sig: signal.Signals) -> Child:
    signal.raise_signal(sig)
    return child


def test_sigusr1_during_the_start_is_forwarded() -> None:
    child = Child()
    assert exit_status(lambda: start_and_raise(child, signal.SIGUSR1)) == 7
    assert child.signals == [signal.SIGUSR1]


def test_an_ignored_signal_stays_ignored() -> None:
    child = Child()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert exit_status(lambda: start_and_raise(child, signal.SIGHUP)) == 7
    assert child.signals == []
