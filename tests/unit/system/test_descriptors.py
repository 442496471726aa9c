"""Tests of descriptors that threads and signal handlers use and close at the same time."""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import socket
import threading
import warnings
from collections.abc import Sequence
from typing import Any

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


def make_shared() -> tuple[Shared, int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    return Shared("it", [-1, fd]), fd


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_shared_descriptors_are_closed_after_their_last_use() -> None:
    shared, fd = make_shared()
    with shared.use() as fds:
        assert list(fds) == [-1, fd]
        with shared.use():
            shared.close()
            assert shared.closed
            with pytest.raises(ClosedError, match="it is closed"), shared.use():
                pass
        assert is_open(fd)
    assert not is_open(fd)
    # Open a file that gets the number of the closed descriptor.
    assert fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, fd) == fd
    shared.close()
    assert is_open(fd)
    os.close(fd)


def test_failed_open_closes_the_descriptors_before_it() -> None:
    opened: list[int] = []

    def open_one(path: str) -> int:
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    # `caught` keeps the traceback, and so the constructor's frames, alive. So only the constructor,
    # and not the garbage collector, can have closed the descriptor.
    with pytest.raises(FileNotFoundError) as caught:
        Shared("it", map(open_one, ["/dev/null", "/no/such/file"]))
    assert len(opened) == 1
    assert not is_open(opened[0])
    del caught


def test_descriptors_of_a_sequence_belong_to_the_caller_after_an_exception() -> None:
    class Interrupted(Sequence[int]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: Any) -> Any:
            if index == 0:
                return fd
            raise KeyboardInterrupt

    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(KeyboardInterrupt):
        Shared("it", Interrupted())
    os.close(fd)


def test_exception_ends_the_use_of_shared_descriptors() -> None:
    shared, fd = make_shared()

    def interrupted() -> None:
        with shared.use():
            shared.close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not is_open(fd)


@settings(deadline=None, max_examples=50)
@given(users=st.lists(st.integers(0, 20), min_size=2, max_size=8), closers=st.integers(1, 3))
def test_threads_that_use_and_close_share_descriptors_safely(
    users: list[int], closers: int
) -> None:
    """Check that the descriptor stays open during each use, and is closed after the last use."""
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


class ClosingLog(Closing):
    _what = "the thing"

    def __init__(self, log: list[str]) -> None:
        self._log = log
        if not log:
            raise ValueError("no log")
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self._log.append("closed")


def test_object_is_closed_by_block_or_garbage_collection() -> None:
    log = ["begin"]
    with ClosingLog(log) as closing:
        assert log == ["begin"]
    assert log == ["begin", "closed"]
    del closing
    with pytest.warns(ResourceWarning, match="the thing was not closed: call close"):
        ClosingLog(log)
    assert log == ["begin", "closed", "closed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="no log"):
            ClosingLog([])


# Ignore pytest's report of a discarded exception: if warnings are errors, a warning during garbage
# collection becomes an exception, which Python discards.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_garbage_collection_closes_with_warnings_as_errors() -> None:
    log = ["begin"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClosingLog(log)
    assert log == ["begin", "closed"]


def test_async_block_calls_close_async() -> None:
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
def test_wait_accepts_any_timeout(timeout: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"+")
        assert wait_readable(ours.fileno(), timeout=timeout)


def test_received_descriptor_is_not_inheritable() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(theirs, [b"+"], [0])
        data, (fd,) = receive(ours, 1, 1)
        try:
            assert data == b"+"
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)
