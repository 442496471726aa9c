"""Descriptors that threads, and handlers of signals, use and close at any time."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usernsctl._system.descriptors import LetGoError, Shared

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
            with pytest.raises(LetGoError, match="it is closed"), shared.use():
                pass
        assert is_open(fd)
    assert not is_open(fd)
    # The number is somebody else's from now on.
    assert os.dup(0) == fd
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
    """Whoever uses them finds them open, and the same, to the end; at last they are closed."""
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
            except LetGoError:
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


def use_until_closed(shared: Shared) -> None:
    while True:
        with shared.use() as (_, used):
            assert os.fstat(used).st_rdev


def test_a_handler_of_signals_may_close_what_it_has_interrupted() -> None:
    """It comes at any moment of a loop that does nothing but use them."""
    closed = 0
    shared, fd = make()

    def close(number: int, frame: FrameType | None) -> None:
        nonlocal closed
        shared.close()
        closed += 1

    before = signal.signal(signal.SIGALRM, close)
    try:
        for pause in range(1, 300):
            signal.setitimer(signal.ITIMER_REAL, pause * 1e-5)
            with pytest.raises(LetGoError):
                use_until_closed(shared)
            assert not is_open(fd)
            shared, fd = make()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert closed == 299
    shared.close()
