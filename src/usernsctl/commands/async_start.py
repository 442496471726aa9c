"""Work that an event loop does not stand still for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

from usernsctl._system.descriptors import AsyncClosing, Closing

_T = TypeVar("_T")


class AsyncStart(Generic[_T]):
    """Work that was begun, and what came of it.

    It is done at once, in the caller's thread, unless an event loop of asyncio runs there: then
    another thread does it, and the loop goes on.
    """

    def __init__(
        self,
        work: Callable[[], _T],
        run: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        """Begin it.

        :param run: has some other thread call what it is given; by default a new one.
        :raises BaseException: what `work` raises, if that is done here.
        """
        self._future: Future[_T] = Future()
        self._creator = os.getpid()
        self._is_told = False
        # The same without a lock: who is interrupted while he asks a future may leave its lock
        # behind, and then nobody else would ever be told.
        self._came: tuple[_T] | None = None
        if not in_event_loop():
            self._came = (work(),)
            self._future.set_result(self._came[0])
            return
        # It can't be called off from here on.
        self._future.set_running_or_notify_cancel()
        future = self._future
        (run or _in_thread)(lambda: _fill(future, work))

    def get(self) -> _T:
        """What came of it; this thread waits for that.

        :raises BaseException: what `work` has raised.
        """
        self._is_told = True
        if self._came is None:
            self._came = (self._future.result(),)
        return self._came[0]

    async def wait(self) -> _T:
        """The same from asyncio; to cancel this changes nothing."""
        self._is_told = True
        if self._came is None and not self._future.done():
            loop = asyncio.get_running_loop()
            done = loop.create_future()

            def tell(_: object) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(_set, done)

            self._future.add_done_callback(tell)
            await done
        return self.get()

    def is_there(self) -> bool:
        """Whether it is over, and something came of it."""
        if self._came is not None:
            return True
        return self._future.done() and self._future.exception() is None

    def settle(self) -> bool:
        """Wait until it is over; whether something came of it."""
        self._is_told = True
        return self._came is not None or self._future.exception() is None

    def undo(self, do: Callable[[_T], object]) -> None:
        """Have another thread do something with what comes of it, as soon as that is there."""
        self._is_told = True

        def act(future: Future[_T]) -> None:
            if future.exception() is None:
                _in_thread(lambda: do(future.result()))

        self._future.add_done_callback(act)

    def __del__(self) -> None:
        if not hasattr(self, "_is_told") or self._is_told or not self._future.done():
            return
        if os.getpid() != self._creator:
            return
        if error := self._future.exception():
            warnings.warn(f"nobody has asked what came of it: {error}", ResourceWarning, 1, self)


class AsyncStartMixin(Closing, AsyncClosing):
    """What is closed at the end of a block, and may just have been begun when the block is entered.

    Its class says what :meth:`close` does.
    """

    _begun: AsyncStart[Any]
    _is_closed = False

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._is_closed

    def _holds(self) -> bool:
        # One whose constructor has failed has no such attribute.
        begun = getattr(self, "_begun", None)
        return not self._is_closed and begun is not None and begun.is_there()

    def _check_open(self) -> None:
        # One whose start has failed is closed, too; that failure says more.
        if self._begun.is_there():
            super()._check_open()

    async def close_async(self) -> None:
        """Close this object from asyncio: see :meth:`close`."""
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.close)))

    def __enter__(self) -> Self:
        super().__enter__()
        self._begun.get()
        return self

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._begun.wait()
        except asyncio.CancelledError:
            self._begun.undo(lambda _: self.close())
            raise
        return self


async def start_in_executor(start: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """Call `start` in a thread of the event loop's executor, and return what it returns.

    As many go on at once as that has threads for. If this is cancelled, `undo` is called with what
    comes of it all the same.

    :raises BaseException: what `start` raises.
    """
    loop = asyncio.get_running_loop()
    return await _result_of(AsyncStart(start, lambda job: loop.run_in_executor(None, job)), undo)


async def start_in_thread(start: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """Call `start` in a new thread, and return what it returns: see :func:`start_in_executor`.

    :raises BaseException: what `start` raises.
    """
    return await _result_of(AsyncStart(start), undo)


async def _result_of(starting: AsyncStart[_T], undo: Callable[[_T], object]) -> _T:
    try:
        return await starting.wait()
    except asyncio.CancelledError:
        starting.undo(undo)
        raise


def in_event_loop() -> bool:
    """Whether an event loop of asyncio runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(job: Callable[[], object]) -> None:
    threading.Thread(target=job, name="usernsctl").start()


def _fill(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
