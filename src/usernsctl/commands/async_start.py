"""Starts that do not block an event loop."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from usernsctl._lean import LateModule
from usernsctl._system.descriptors import AsyncClosing, Closing

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future
else:
    asyncio = LateModule("asyncio")

_T = TypeVar("_T")


class AsyncStart(Generic[_T]):
    """A function call in progress, and its result.

    The call is made in the caller's thread, unless an event loop of asyncio runs there: then
    another thread makes the call, and the event loop is not blocked.
    """

    # The future of the other thread. It exists only with an event loop: the import of
    # concurrent.futures takes time.
    _future: Future[_T]

    def __init__(
        self,
        work: Callable[[], _T],
        run: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        """Start the call of `work`.

        :param run: calls its argument in another thread; by default in a new one.
        :raises BaseException: the exception of `work`, if this thread calls it.
        """
        self._creator = os.getpid()
        self._is_awaited = False
        # The result, to be read without a lock: an exception of a signal handler may leave a
        # future locked, and all other readers would wait for it.
        self._result: tuple[_T] | None = None
        if not in_event_loop():
            self._result = (work(),)
            return
        from concurrent.futures import Future

        self._future = Future()
        future = self._future
        # Mark it as running, so that the cancellation of an asyncio future which waits for it does
        # not cancel it, too.
        future.set_running_or_notify_cancel()
        (run or _in_thread)(lambda: _fill(future, work))

    def get(self) -> _T:
        """Wait for the result in this thread, and return it.

        :raises BaseException: the exception of `work`.
        """
        self._is_awaited = True
        if self._result is None:
            self._result = (self._future.result(),)
        return self._result[0]

    async def wait(self) -> _T:
        """Wait for the result from asyncio. A cancelled call has no effect on `work`."""
        self._is_awaited = True
        if self._result is None and not self._future.done():
            loop = asyncio.get_running_loop()
            done = loop.create_future()

            def tell(_: object) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(_set, done)

            self._future.add_done_callback(tell)
            await done
        return self.get()

    def is_there(self) -> bool:
        """Return whether `work` has returned a result."""
        if self._result is not None:
            return True
        return self._future.done() and self._future.exception() is None

    def settle(self) -> bool:
        """Wait for the end of `work`; return whether there is a result."""
        self._is_awaited = True
        return self._result is not None or self._future.exception() is None

    def undo(self, do: Callable[[_T], object]) -> None:
        """Call `do` with the result in another thread, as soon as there is one."""
        self._is_awaited = True
        if self._result is not None:
            result = self._result[0]
            _in_thread(lambda: do(result))
            return

        def act(future: Future[_T]) -> None:
            if future.exception() is None:
                _in_thread(lambda: do(future.result()))

        self._future.add_done_callback(act)

    def __del__(self) -> None:
        future = getattr(self, "_future", None)
        if future is None or self._is_awaited or not future.done():
            return
        if os.getpid() != self._creator:
            return
        if error := future.exception():
            warnings.warn(f"a failed start was not awaited: {error}", ResourceWarning, 1, self)


class AsyncStartMixin(Closing, AsyncClosing):
    """A context manager whose start may still be in progress when the block is entered.

    Subclasses define :meth:`close`.
    """

    _async_start: AsyncStart[Any]
    _is_closed = False

    @property
    def closed(self) -> bool:
        """Return whether :meth:`close` was called."""
        return self._is_closed

    def _holds(self) -> bool:
        # _async_start does not exist if the constructor has raised.
        begun = getattr(self, "_async_start", None)
        return not self._is_closed and begun is not None and begun.is_there()

    def _check_open(self) -> None:
        # After a failed start, the error of the start is raised later, which is more useful than
        # "is closed".
        if self._async_start.is_there():
            super()._check_open()

    async def close_async(self) -> None:
        """Close this object from asyncio: see :meth:`close`."""
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.close)))

    def __enter__(self) -> Self:
        super().__enter__()
        self._async_start.get()
        return self

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._async_start.wait()
        except asyncio.CancelledError:
            self._async_start.undo(lambda _: self.close())
            raise
        return self


async def start_in_executor(start: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """Call `start` in a thread of the event loop's executor, and return what it returns.

    The executor limits the number of simultaneous calls. If this call is cancelled, `undo` is
    called with the result as soon as there is one.

    :raises BaseException: the exception of `start`.
    """
    loop = asyncio.get_running_loop()
    return await _result_of(AsyncStart(start, lambda job: loop.run_in_executor(None, job)), undo)


async def start_in_thread(start: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """Call `start` in a new thread, and return what it returns: see :func:`start_in_executor`.

    :raises BaseException: the exception of `start`.
    """
    return await _result_of(AsyncStart(start), undo)


async def _result_of(starting: AsyncStart[_T], undo: Callable[[_T], object]) -> _T:
    try:
        return await starting.wait()
    except asyncio.CancelledError:
        starting.undo(undo)
        raise


def in_event_loop() -> bool:
    """Return whether an event loop of asyncio runs in this thread."""
    if "asyncio" not in sys.modules:
        return False
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
