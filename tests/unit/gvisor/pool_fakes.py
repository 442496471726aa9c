"""Fakes for the tests of a pool's keeper thread; fake sandboxes start at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from processes import wait_until

from usernsctl.gvisor.pool.keeper import Keeper, Rules
from usernsctl.gvisor.pool.pool import AsyncLease, Lease

PATIENCE = 20


class FakeSandbox:
    """Fake sandbox.

    :ivar log: names of the operations that the pool has applied to the sandbox.
    :ivar expired: the time (time.monotonic()) at which the sandbox has expired, or 0.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.expired = 0.0
        self.ended, self._end = os.pipe()

    def end(self) -> None:
        """Let `ended` reach end of file, so that it is readable, like an exited process's pidfd."""
        end, self._end = self._end, -1
        if end >= 0:
            os.close(end)

    def forget(self) -> None:
        self.end()
        ended, self.ended = self.ended, -1
        if ended >= 0:
            os.close(ended)


class FakeFactory:
    """Factory of fake sandboxes.

    :ivar made: all fake sandboxes created so far.
    :ivar gate: an event that each start waits for.
    :ivar failure: the exception that each start raises, or None.
    :ivar attempts: the times (time.monotonic()) at which starts began.
    """

    def __init__(self) -> None:
        self.made: list[FakeSandbox] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.attempts: list[float] = []
        self.sick: Callable[[FakeSandbox], Exception | None] = lambda _: None
        self.dirty: Exception | None = None
        self.at_once = self.most_at_once = 0

    def make(self) -> FakeSandbox:
        self.attempts.append(time.monotonic())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.gate.wait()
        self.at_once -= 1
        if self.failure is not None:
            raise self.failure
        self.made.append(FakeSandbox())
        return self.made[-1]

    def check(self, one: FakeSandbox) -> None:
        if "ended" in one.log:
            raise RuntimeError("it was ended")
        if (error := self.sick(one)) is not None:
            raise error

    async def check_async(self, one: FakeSandbox) -> None:
        await asyncio.sleep(0)
        self.check(one)

    def keep(self, one: FakeSandbox) -> None:
        one.log.append("kept")

    def clean(self, one: FakeSandbox) -> None:
        one.log.append("cleaned")
        if self.dirty is not None:
            raise self.dirty

    def kill(self, one: FakeSandbox) -> None:
        one.log.append("killed")

    def expire(self, one: FakeSandbox, ttl: float, used: float) -> None:
        assert 0 < ttl <= used
        one.expired = time.monotonic()
        one.log.append("expired")

    def end(self, one: FakeSandbox) -> None:
        one.log.append("ended")
        one.forget()

    def pidfd(self, one: FakeSandbox) -> int:
        return one.ended


@contextlib.contextmanager
def open_factory() -> Iterator[FakeFactory]:
    """Yield a factory; then check that its sandboxes have ended and its threads have exited."""
    factory = FakeFactory()
    threads = threading.active_count()
    yield factory
    factory.gate.set()
    wait_until(lambda: threading.active_count() == threads)
    assert [one.log for one in factory.made if "ended" not in one.log] == []


@contextlib.contextmanager
def open_keeper(factory: FakeFactory, **rules: Any) -> Iterator[Keeper[FakeSandbox]]:
    given = {"size": 1, "limit": 100, "starts": 100, "pauses": (0.01, 0.02, 0.04), **rules}
    made = Keeper[FakeSandbox](factory, Rules(**given))
    try:
        yield made
    finally:
        factory.gate.set()
        made.close()


def lease(
    of: Keeper[FakeSandbox], timeout: float | None = PATIENCE, ttl: float | None = None
) -> Lease[FakeSandbox]:
    return Lease(of, timeout, ttl)


def async_lease(
    of: Keeper[FakeSandbox], timeout: float | None = PATIENCE
) -> AsyncLease[FakeSandbox]:
    return AsyncLease(of, timeout)


def stats_are(of: Keeper[FakeSandbox], **wanted: int) -> Callable[[], bool]:
    def matches() -> bool:
        return all(getattr(of.stats, name) == value for name, value in wanted.items())

    return matches
