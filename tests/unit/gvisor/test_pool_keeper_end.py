"""Tests of closing a pool and of interrupted leases, with fake sandboxes."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from pool_fakes import (
    PATIENCE,
    FakeFactory,
    FakeSandbox,
    lease,
    open_factory,
    open_keeper,
    stats_are,
)
from processes import wait_until

from usernsctl.gvisor.pool.keeper import Keeper, Rules


@pytest.fixture
def factory() -> Iterator[FakeFactory]:
    with open_factory() as opened:
        yield opened


def test_close_ends_sandboxes_and_fails_waiters(factory: FakeFactory) -> None:
    errors: list[BaseException] = []
    with open_keeper(factory, size=2, limit=2) as pool:
        first, second = lease(pool), lease(pool)
        with first as one, second as two:

            def wait() -> None:
                try:
                    lease(pool, None).__enter__()
                except ValueError as error:
                    errors.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(stats_are(pool, queued=1))
            pool.close()
            thread.join(PATIENCE)
            assert str(errors[0]) == "the pool is closed"
            assert one.log == two.log == ["killed", "ended"]
            pool.close()
        with pytest.raises(ValueError, match="the pool is closed"), lease(pool):
            pass


def test_close_waits_for_pending_starts(factory: FakeFactory) -> None:
    factory.gate.clear()
    pool = Keeper[FakeSandbox](factory, Rules(size=3, limit=3, starts=3))
    wait_until(lambda: factory.at_once == 3)
    closing = threading.Thread(target=pool.close)
    closing.start()
    wait_until(lambda: pool.closed)
    assert closing.is_alive()
    factory.gate.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert [one.log for one in factory.made] == [["killed", "ended"]] * 3


class Interrupt(BaseException):
    """Exception that the tests raise at a given line, like KeyboardInterrupt."""


def lease_with_interrupt(pool: Keeper[FakeSandbox], step: int) -> bool:
    """Lease a sandbox; raise Interrupt before the `step`-th executed line of usernsctl.gvisor.pool.

    :returns: True if Interrupt was raised; False if fewer lines were executed.
    """
    lines = 0

    def trace(frame: FrameType, event: str, value: object) -> Any:
        nonlocal lines
        name = frame.f_code.co_filename
        if "/gvisor/pool/" not in name or frame.f_code.co_name == "__del__":
            return None
        lines += event == "line"
        if event == "line" and lines == step:
            raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        with lease(pool):
            pass
    except Interrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_interrupt_at_any_line_leaks_no_lease(factory: FakeFactory) -> None:
    with open_keeper(factory, size=2) as pool:
        step = 1
        while lease_with_interrupt(pool, step):
            wait_until(stats_are(pool, queued=0, leased=0, idle=2))
            step += 1
        assert step > 20


def test_forked_child_can_not_use_the_pool(factory: FakeFactory) -> None:
    with open_keeper(factory) as pool:
        wait_until(stats_are(pool, idle=1))
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            # Ignore Python's warning about a fork in a multithreaded process, because this child
            # takes no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                try:
                    lease(pool).__enter__()
                except ValueError as error:
                    os.write(theirs, str(error).encode())
                pool.close()
                os.write(theirs, b" closed")
            finally:
                os._exit(0)
        os.close(theirs)
        with open(ours) as pipe:
            output = pipe.read()
        os.waitpid(pid, 0)
        assert output.startswith(f"the pool belongs to its creator, process {os.getpid()}")
        assert output.endswith(" closed")
        assert pool.stats.idle == 1
        with lease(pool) as one:
            assert one.log == []


def test_internal_error_closes_the_pool(
    factory: FakeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ArithmeticError("a bug")

    pool = Keeper[FakeSandbox](factory, Rules(size=1, limit=2, starts=1))
    wait_until(stats_are(pool, idle=1))
    monkeypatch.setattr(pool, "_on_release", fail)
    with lease(pool):
        pass
    with pytest.raises(ValueError, match="the pool is closed"), lease(pool):
        pass
    with pytest.raises(ArithmeticError, match="a bug"):
        pool.close()


def test_close_leaves_no_descriptors(
    factory: FakeFactory, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    write = os.eventfd_write

    def write_slowly(fd: int, value: int) -> None:
        write(fd, value)
        if threading.current_thread() is not threading.main_thread():
            # Delay this thread's exit until long after it has woken the keeper.
            time.sleep(0.05)

    monkeypatch.setattr(os, "eventfd_write", write_slowly)
    with open_keeper(factory) as pool:
        wait_until(stats_are(pool, idle=1))
