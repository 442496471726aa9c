"""Run blocking functions in threads, so that they do not block an event loop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from usernsctl._lean import LateModule
from usernsctl._system.descriptors import AsyncClosing, Closing

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future
else:
    asyncio = LateModule("asyncio")

_T = TypeVar("_T")


class ClosingMixin(Closing, AsyncClosing):
    """Mixin for classes whose objects are closed at the end of a ``with`` or ``async with`` block.

    Subclasses define :meth:`close`.
    """

    _is_closed = False

    @property
    def closed(self) -> bool:
        """Return whether :meth:`close` was called."""
        return self._is_closed

    async def close_async(self) -> None:
        """Close this object from asyncio; see :meth:`close`."""
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.close)))


async def start_in_executor(start: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """Call `start` in a thread of the event loop's executor, and return its result.

    The executor limits the number of simultaneous calls. If this coroutine is cancelled, another
    thread calls `undo` with the result of `start`, as soon as `start` has returned.

    :raises BaseException: the exception that `start` raised, unchanged.
    """
    loop = asyncio.get_running_loop()
    return await _result_of(start, undo, lambda job: loop.run_in_executor(None, job))


async def start_in_thread(start: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """Call `start` in a new thread, and return its result; see :func:`start_in_executor`.

    :raises BaseException: the exception that `start` raised, unchanged.
    """
    return await _result_of(start, undo, _in_thread)


async def _result_of(
    start: Callable[[], _T],
    undo: Callable[[_T], object],
    run: Callable[[Callable[[], object]], object],
) -> _T:
    """Return the result of `start`, which `run` calls in another thread."""
    from concurrent.futures import Future

    future: Future[_T] = Future()
    # Mark the future as running, because a future that runs can't be cancelled.
    future.set_running_or_notify_cancel()
    run(lambda: _fill(future, start))
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # Raised if the event loop is closed.
            loop.call_soon_threadsafe(_set, done)

    future.add_done_callback(tell)
    try:
        await done
    except asyncio.CancelledError:
        future.add_done_callback(lambda ended: _undo(ended, undo))
        raise
    return future.result()


def _undo(future: Future[_T], undo: Callable[[_T], object]) -> None:
    if future.exception() is None:
        _in_thread(lambda: undo(future.result()))


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
