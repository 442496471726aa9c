"""Tests of descriptors that threads and signal handlers use and close concurrently."""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import socket
import threading
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usernsctl._system.descriptors import (
    AsyncClosing,
    ClosedError,
    Closing,
    Shared,
    receive,
    wait_readable,
)

PATIENCE = 20


def make() -> tuple[Shared, int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    return Shared("it", [-1, fd]), fd


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_they_are_closed_once_nobody_uses_them() -> None:
    shared, fd = make()
    with shared.use() as fds:
        assert list(fds) == [-1, fd]
        with shared.use():
            shared.close()
            assert shared.closed
            with pytest.raises(ClosedError, match="it is closed"), shared.use():
                pass
        assert is_open(fd)
    assert not is_open(fd)
    # The next file gets the same number.
    assert fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, fd) == fd
    shared.close()
    assert is_open(fd)
    os.close(fd)


def test_who_ends_by_an_exception_uses_them_no_more() -> None:
    shared, fd = make()

    def interrupted() -> None:
        with shared.use():
            shared.close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not is_open(fd)


@settings(deadline=None, max_examples=50)
@given(users=st.lists(st.integers(0, 20), min_size=2, max_size=8), closers=st.integers(1, 3))
def test_many_threads(users: list[int], closers: int) -> None:
    """Check that no descriptor is closed or replaced during use, and all are closed at the end."""
    ours, theirs = os.pipe()
    shared = Shared("it", [ours])
    wanted = os.fstat(ours)
    wrong: list[str] = []
    begin = threading.Barrier(len(users) + closers)

    def use(times: int) -> None:
        begin.wait()
        for _ in range(times):
            try:
                with shared.use() as (fd,):
                    if not os.path.samestat(os.fstat(fd), wanted):
                        wrong.append("another one")
            except ClosedError:
                return
            except OSError as error:
                wrong.append(str(error))

    def close() -> None:
        begin.wait()
        shared.close()

    threads = [threading.Thread(target=use, args=[times]) for times in users]
    threads += [threading.Thread(target=close) for _ in range(closers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []
    assert not is_open(ours)
    os.close(theirs)


class Held(Closing):
    _what = "the thing"

    def __init__(self, log: list[str]) -> None:
        self._log = log
        if not log:
            raise ValueError("no log")
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self._log.append("closed")


def test_close_at_the_end_of_a_block_or_when_forgotten() -> None:
    log = ["begin"]
    with Held(log) as held:
        assert log == ["begin"]
    assert log == ["begin", "closed"]
    del held
    with pytest.warns(ResourceWarning, match="the thing was forgotten before it was closed"):
        Held(log)
    assert log == ["begin", "closed", "closed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="no log"):
            Held([])


# Python ignores exceptions during a garbage collection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_close_when_forgotten_though_warnings_are_errors() -> None:
    log = ["begin"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Held(log)
    assert log == ["begin", "closed"]


def test_close_async_at_the_end_of_an_async_block() -> None:
    log: list[str] = []

    class Slow(AsyncClosing):
        async def close_async(self) -> None:
            await asyncio.sleep(0)
            log.append("closed")

    async def main() -> None:
        async with Slow():
            assert log == []

    asyncio.run(main())
    assert log == ["closed"]


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 2**31])
def test_a_wait_of_any_length(timeout: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"+")
        assert wait_readable(ours.fileno(), timeout=timeout)


def test_what_was_received_is_not_inherited() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(theirs, [b"+"], [0])
        data, (fd,) = receive(ours, 1, 1)
        try:
            assert data == b"+"
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)
