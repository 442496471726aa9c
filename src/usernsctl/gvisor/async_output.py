"""Transfer of a command's standard input and output in an event loop, with an output limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Awaitable, Callable
from typing import Any

from usernsctl.commands.popen import TimeoutExpired
from usernsctl.gvisor.output import READ_BYTES, BoundedOutput, KeptOutput


class AsyncExchange:
    """The transfer of standard input and output between a command and an event loop."""

    def __init__(self, process: Any, input: bytes | None, bounds: BoundedOutput) -> None:
        """Start the transfer in the running event loop.

        :param process: an object with the pipes `stdin`, `stdout` and `stderr`.
        :raises BaseException: the exception that the event loop raised because it can't watch a
            pipe. That pipe, and all pipes that the loop already watched, have been closed.
        """
        self._loop = asyncio.get_running_loop()
        self._bounds = bounds
        self._left = memoryview(input or b"")
        self._open: dict[int, Any] = {}
        self._done: asyncio.Future[None] = self._loop.create_future()
        try:
            if process.stdin is not None:
                self._add(process.stdin, self._loop.add_writer, self._write)
            for stream, kept in ((process.stdout, bounds.stdout), (process.stderr, bounds.stderr)):
                if stream is not None:
                    self._add(stream, self._loop.add_reader, self._read, kept)
        except BaseException:
            self.close()
            raise
        self._end_if_over()

    def _add(self, stream: Any, watch: Any, *call: Any) -> None:
        fd = stream.fileno()
        os.set_blocking(fd, False)
        self._open[fd] = stream
        watch(fd, *call[:1], fd, *call[1:])

    async def wait(self) -> None:
        """Wait until all pipes are closed, or the output exceeds its limit."""
        await self._done

    def _write(self, fd: int) -> None:
        try:
            self._left = self._left[os.write(fd, self._left[: select.PIPE_BUF]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = self._left[:0]
        if not self._left:
            self._close(fd)

    def _read(self, fd: int, kept: KeptOutput) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        kept.add(data)
        if not data:
            self._close(fd)
        elif self._bounds.overflow is not None and not self._done.done():
            self._done.set_result(None)

    def _close(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        with contextlib.suppress(BrokenPipeError):
            self._open.pop(fd).close()
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._open and not self._done.done():
            self._done.set_result(None)

    def close(self) -> None:
        """Stop the transfer, and close the pipes."""
        for fd in list(self._open):
            self._close(fd)


async def communicate(
    process: Any,
    input: bytes | None,
    timeout: float | None,
    bounds: BoundedOutput,
    *,
    wait: Callable[[], Awaitable[object]],
    end: Callable[[], Awaitable[object]],
) -> None:
    """Write to a command and read its output, until the command exits.

    The command is killed if it exceeds `timeout` or the output limit, or if this call is cancelled.

    :param process: an object with the pipes `stdin`, `stdout` and `stderr`.
    :param wait: a function that waits for the command to exit.
    :param end: a function that kills the command, and waits for its exit.
    :raises TimeoutExpired: the command did not exit within `timeout` seconds. The exception
        contains the captured output.
    """
    exchange = AsyncExchange(process, input, bounds)
    try:
        async with asyncio.timeout(timeout):
            await exchange.wait()
            if bounds.overflow is None:
                await wait()
    except BaseException as error:
        await asyncio.shield(asyncio.ensure_future(end()))
        if isinstance(error, TimeoutError):
            kept, stderr = bounds.data(process)
            raise TimeoutExpired(process.args, timeout or 0, kept, stderr) from None
        raise
    else:
        if bounds.overflow is not None:
            await end()
    finally:
        # Close the pipes only after the command was killed: if the command wrote to a closed pipe
        # before that, it would receive SIGPIPE, or the write would fail with EPIPE.
        exchange.close()
