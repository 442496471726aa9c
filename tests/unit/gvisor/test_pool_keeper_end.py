"""Tests of the end of a keeper, and of interrupts, with fake sandboxes."""

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
from stocks import (
    PATIENCE,
    Thing,
    Workshop,
    lease,
    open_workshop,
    stands,
    stock,
    wait_until,
)

from usernsctl.gvisor.pool.keeper import Keeper, Rules


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    with open_workshop() as made:
        yield made


def test_close_ends_all_and_tells_who_waits(workshop: Workshop) -> None:
    told: list[BaseException] = []
    with stock(workshop, size=2, limit=2) as pool:
        first, second = lease(pool), lease(pool)
        with first as one, second as two:

            def wait() -> None:
                try:
                    lease(pool, None).__enter__()
                except ValueError as error:
                    told.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(stands(pool, queued=1))
            pool.close()
            thread.join(PATIENCE)
            assert str(told[0]) == "the pool is closed"
            assert one.log == two.log == ["killed", "ended"]
            pool.close()
        with pytest.raises(ValueError, match="the pool is closed"), lease(pool):
            pass


def test_close_waits_for_what_is_being_made(workshop: Workshop) -> None:
    workshop.gate.clear()
    pool = Keeper[Thing](workshop, Rules(size=3, limit=3, starts=3))
    wait_until(lambda: workshop.at_once == 3)
    closing = threading.Thread(target=pool.close)
    closing.start()
    wait_until(lambda: pool.closed)
    assert closing.is_alive()
    workshop.gate.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert [one.log for one in workshop.made] == [["killed", "ended"]] * 3


class Interrupt(BaseException):
    """Stand-in for KeyboardInterrupt."""


def interrupted(pool: Keeper[Thing], step: int) -> bool:
    """Lease a sandbox, and raise Interrupt before the `step`-th executed line of the package.

    :returns: whether the exception was raised: false if fewer lines were executed.
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


def test_an_interrupt_at_any_line_leaves_nothing(workshop: Workshop) -> None:
    with stock(workshop, size=2) as pool:
        step = 1
        while interrupted(pool, step):
            wait_until(stands(pool, queued=0, leased=0, idle=2))
            step += 1
        assert step > 20


def test_after_a_fork_it_is_the_creators(workshop: Workshop) -> None:
    with stock(workshop) as pool:
        wait_until(stands(pool, idle=1))
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            # Python warns of fork() with threads, but the child takes no lock.
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
        with open(ours) as told:
            said = told.read()
        os.waitpid(pid, 0)
        assert said.startswith(f"the pool belongs to its creator, process {os.getpid()}")
        assert said.endswith(" closed")
        assert pool.stats.idle == 1
        with lease(pool) as one:
            assert one.log == []


def test_what_should_not_happen_ends_all(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ArithmeticError("a bug")

    pool = Keeper[Thing](workshop, Rules(size=1, limit=2, starts=1))
    wait_until(stands(pool, idle=1))
    monkeypatch.setattr(pool, "_on_release", fail)
    with lease(pool):
        pass
    with pytest.raises(ValueError, match="the pool is closed"), lease(pool):
        pass
    with pytest.raises(ArithmeticError, match="a bug"):
        pool.close()


def test_after_close_nothing_is_open(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    write = os.eventfd_write

    def write_slowly(fd: int, value: int) -> None:
        write(fd, value)
        if threading.current_thread() is not threading.main_thread():
            # Delays this thread's end until long after the keeper was woken.
            time.sleep(0.05)

    monkeypatch.setattr(os, "eventfd_write", write_slowly)
    with stock(workshop) as pool:
        wait_until(stands(pool, idle=1))
