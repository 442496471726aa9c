"""What somebody has for a time: given by a pool when a block is entered, taken back at its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from usernsctl.errors import PoolError, PoolTimeoutError
from usernsctl.gvisor.agent import seconds_left
from usernsctl.gvisor.pool_stock import Closed, Late, Stock, Ticket

_T = TypeVar("_T")


class _Lease(Generic[_T]):
    """What is the same for threads and for asyncio.

    An interrupt may come at any time, also just before or just after a block: so whoever forgets
    this object has given back what it has.
    """

    _ticket: Ticket[_T] | None = None
    _has = False
    _is_over = False

    def __init__(self, stock: Stock[_T], timeout: float | None) -> None:
        """Want one, as soon as the block is entered.

        :param timeout: how long to wait then, in seconds.
        """
        self._stock = stock
        self._timeout = timeout

    def _begin(self) -> float | None:
        """Until when to wait, by the monotonic clock; ``None``: without an end.

        :raises ValueError: this was entered before.
        """
        if self._ticket is not None:
            raise ValueError("a block was entered by this before: call acquire once more")
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _ask(self, tell: Callable[[], object]) -> Ticket[_T]:
        self._ticket = ticket = Ticket[_T](tell)
        try:
            self._stock.ask(ticket)
        except Closed:
            raise _closed() from None
        return ticket

    def _given(self, ticket: Ticket[_T]) -> _T:
        """What the ticket was told of.

        :raises PoolError: a failure.
        :raises PoolTimeoutError: that nothing was there in time.
        :raises ValueError: the pool is closed.
        """
        failure = ticket.failure
        if isinstance(failure, Closed):
            raise _closed()
        if isinstance(failure, Late):
            self._raise_late()
        if failure is not None:
            raise PoolError(
                f"no sandbox could be had: {failure}", step="pool", **_why(failure)
            ) from failure
        assert ticket.member is not None
        return ticket.member.one

    def _raise_late(self) -> NoReturn:
        stats, limit = self._stock.stats, self._stock.rules.limit
        text = (
            f"no sandbox was free within {self._timeout:g} s: of {limit} at most, "
            f"{stats.handed_out} are handed out, {stats.starting} are being made and "
            f"{stats.waiting} wait; {stats.queued} other calls want one"
        )
        failure = stats.last_failure
        if failure is None:
            raise PoolTimeoutError(text, step="pool")
        text += f"; the last one that failed: {failure}"
        raise PoolTimeoutError(text, step="pool", **_why(failure)) from failure

    def _undo(self) -> None:
        """Want nothing any more."""
        self._has = False
        if self._ticket is not None:
            self._stock.abandon(self._ticket)
        self._is_over = True

    def _give_back(self) -> None:
        if self._has and self._ticket is not None:
            self._stock.give_back(self._ticket)
            self._is_over = True
            self._has = False

    def __del__(self) -> None:
        if self._has:
            self._give_back()
        elif not self._is_over and self._ticket is not None:
            self._undo()


class Lease(_Lease[_T], contextlib.AbstractContextManager[_T]):
    """The one for threads."""

    def __enter__(self) -> _T:
        deadline = self._begin()
        told = threading.Lock()
        told.acquire()
        try:
            ticket = self._ask(told.release)
            while True:
                left = seconds_left(deadline)
                if not told.acquire(timeout=-1 if left is None else min(left, _WAIT_MAX)):
                    self._stock.hurry(ticket)
                    told.acquire()
                one = self._given(ticket)
                try:
                    self._stock.maker.check(one)
                except Exception as error:
                    self._stock.refuse(ticket, error)
                else:
                    self._has = True
                    return one
        except BaseException:
            self._undo()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back()


class AsyncLease(_Lease[_T], contextlib.AbstractAsyncContextManager[_T]):
    """The one for asyncio."""

    async def __aenter__(self) -> _T:
        deadline = self._begin()
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        try:
            ticket = self._ask(lambda: loop.call_soon_threadsafe(told.set))
            while True:
                try:
                    async with asyncio.timeout(seconds_left(deadline)):
                        await told.wait()
                except TimeoutError:
                    self._stock.hurry(ticket)
                    await told.wait()
                told.clear()
                one = self._given(ticket)
                try:
                    await self._stock.maker.check_async(one)
                except Exception as error:
                    self._stock.refuse(ticket, error)
                else:
                    self._has = True
                    return one
        except BaseException:
            self._undo()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back()


# As long as a lock can be waited for.
_WAIT_MAX = threading.TIMEOUT_MAX


def _closed() -> ValueError:
    return ValueError("the pool is closed")


def _why(failure: BaseException) -> dict[str, Any]:
    """The cause and the remedy of a failure, for an error that tells of it."""
    return {name: getattr(failure, name, None) for name in ("cause", "remedy")}
