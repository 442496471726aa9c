"""Capture of a command's output, up to a number of bytes."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import selectors
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from usernsctl._system.descriptors import deadline_after, seconds_left
from usernsctl.commands.popen import PIPE, TimeoutExpired
from usernsctl.gvisor.result import Result

#: The treatment of a command that writes more than `max_output` bytes.
OnOverflow = Literal["truncate", "kill"]

#: The maximum number of bytes to read from a pipe at once.
READ_BYTES = 1 << 16

# The maximum timeout for one call of poll(2), in seconds. The loop checks the deadline after each
# call.
_PATIENCE = 3600.0

# The maximum length of a character in the encodings of output, in bytes.
_CHARACTER_BYTES = 4


class KeptOutput:
    """The beginning and the end of a command's output to one stream, and the output's size."""

    def __init__(self, limit: int) -> None:
        """Create an empty capture.

        :param limit: the number of bytes to capture: half from the beginning of the output, half
            from the end.
        """
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self.total: int = 0

    def add(self, data: bytes) -> None:
        """Append `data` to the output; discard bytes that belong to neither half."""
        self.total += len(data)
        room = self._limit // 2 - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        # Trim the tail only when it is twice as large as needed, because each trim copies the tail.
        if len(self._tail) > 2 * self._tail_size + READ_BYTES:
            self._cut()

    @property
    def _tail_size(self) -> int:
        return self._limit - self._limit // 2

    def _cut(self) -> None:
        del self._tail[: max(len(self._tail) - self._tail_size, 0)]

    @property
    def truncated(self) -> int:
        """The number of bytes that were discarded because of the limit."""
        return max(self.total - self._limit, 0)

    def data(self) -> bytes:
        """Return the captured bytes."""
        self._cut()
        return bytes(self._head + self._tail)

    def text(self, encoding: str, errors: str) -> str:
        """Decode the captured bytes, without characters that are incomplete because of the limit.

        Line ends are converted to newlines, as in :mod:`subprocess`.

        :raises UnicodeDecodeError: the output is not valid in its encoding.
        """
        if not self.truncated:
            return _newlines(self.data().decode(encoding, errors))
        self._cut()
        head = codecs.getincrementaldecoder(encoding)(errors).decode(bytes(self._head))
        for skip in range(_CHARACTER_BYTES):
            with contextlib.suppress(UnicodeDecodeError):
                return _newlines(head + self._tail[skip:].decode(encoding, errors))
        return _newlines(head + self._tail.decode(encoding, errors))


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_max_output(limit: int) -> None:
    """Check the value of an argument `max_output`, a number of bytes.

    :raises TypeError: the value is not an integer.
    :raises ValueError: the value is too small.
    """
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"max_output must be a number of bytes, not {limit!r}")
    if limit < 1:
        raise ValueError(f"max_output must be at least 1 byte, not {limit}")


class BoundedOutput:
    """The input to a command, and the capture of its output up to a limit."""

    def __init__(
        self, limit: int | None, on_overflow: OnOverflow, stdout: Any, stderr: Any
    ) -> None:
        """Check the arguments, and create an empty capture for each output stream.

        :param limit: the number of bytes to capture from each stream.
        :param on_overflow: ``"kill"`` to kill a command that writes more than `limit` bytes,
            ``"truncate"`` to discard the rest.
        :param stdout: the argument for the standard output of the command.
        :param stderr: the argument for the standard error of the command.
        :raises TypeError: an argument has the wrong type.
        :raises ValueError: an argument has a wrong value, or neither stream is PIPE.
        """
        if on_overflow not in ("truncate", "kill"):
            raise ValueError(f"on_overflow must be 'truncate' or 'kill', not {on_overflow!r}")
        if limit is None:
            raise ValueError(f"on_overflow={on_overflow!r} needs max_output, a number of bytes")
        check_max_output(limit)
        if PIPE not in (stdout, stderr):
            raise ValueError("max_output limits captured output: add capture_output=True")
        self._set(limit, on_overflow)

    def _set(self, limit: int, on_overflow: OnOverflow) -> None:
        self._limit = limit
        self._is_killing = on_overflow == "kill"
        self.stdout: KeptOutput = KeptOutput(limit)
        self.stderr: KeptOutput = KeptOutput(limit)

    @classmethod
    def without_limit(cls) -> BoundedOutput:
        """Create an object that captures all output."""
        made = cls.__new__(cls)
        made._set(sys.maxsize, "truncate")
        return made

    @property
    def overflow(self) -> KeptOutput | None:
        """The capture that exceeded its limit, if the limit kills the command; else ``None``."""
        if self._is_killing:
            for kept in (self.stdout, self.stderr):
                if kept.truncated:
                    return kept
        return None

    def communicate(
        self,
        process: Any,
        input: bytes | None,
        timeout: float | None,
        *,
        wait: Callable[[float | None], object],
        kill: Callable[[], object],
    ) -> None:
        """Write to a command and read its output, until the command exits.

        :param process: an object with the pipes `stdin`, `stdout` and `stderr`.
        :param wait: a function that waits for the command to exit; its argument is the timeout, in
            seconds.
        :param kill: a function that kills the command.
        :raises TimeoutExpired: the command did not exit within `timeout` seconds. The exception
            contains the captured output.
        """
        deadline = deadline_after(timeout)
        try:
            self._exchange(process, input, deadline)
            if self.overflow is None:
                wait(seconds_left(deadline))
                return
        except TimeoutExpired as expired:
            expired.output, expired.stderr = self.data(process)
            raise
        kill()

    def output_of(self, process: Any, input: Any, timeout: float | None) -> tuple[Any, Any]:
        """Communicate with the SandboxPopen `process` until it exits; return the captured output.

        :raises TimeoutExpired: as :meth:`communicate` does.
        """
        sent = encoded_input(process, input)
        self.communicate(process, sent, timeout, wait=process.wait, kill=process._end)
        return self.kept(process)

    def kept(self, process: Any) -> tuple[Any, Any]:
        """Return the captured output of a SandboxPopen, as text if its streams carry text.

        :raises UnicodeDecodeError: the output is not valid in its encoding.
        """
        streams = [one for one in (process.stdout, process.stderr) if one is not None]
        if process.text_mode and streams:
            return self.texts(process, streams[0].encoding, streams[0].errors)
        return self.data(process)

    def _exchange(self, process: Any, input: bytes | None, deadline: float | None) -> None:
        """Write `input`, and read both streams to end of file, or until one exceeds the limit."""
        kept = {process.stdout: self.stdout, process.stderr: self.stderr}
        left = memoryview(input or b"")
        with selectors.PollSelector() as selector:
            if process.stdin is not None:
                selector.register(process.stdin, selectors.EVENT_WRITE)
            for stream in kept:
                if stream is not None:
                    selector.register(stream, selectors.EVENT_READ)
            while selector.get_map() and self.overflow is None:
                ready = selector.select(min(seconds_left(deadline) or _PATIENCE, _PATIENCE))
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutExpired("", 0)
                for key, _ in ready:
                    stream = key.fileobj
                    if stream is process.stdin:
                        left = left[_write(key.fd, left) :]
                        is_over = not left
                    else:
                        data = os.read(key.fd, READ_BYTES)
                        kept[stream].add(data)
                        is_over = not data
                    if is_over:
                        selector.unregister(stream)
                        with contextlib.suppress(BrokenPipeError):
                            stream.close()

    def describe(self, result: Result[Any]) -> None:
        """Set the attributes of `result` that describe discarded output and an exceeded limit."""
        result.stdout_truncated = self.stdout.truncated
        result.stderr_truncated = self.stderr.truncated
        if (overflow := self.overflow) is not None:
            result.reason = "output-limit"
            result.limit, result.used = self._limit, overflow.total

    def texts(self, process: Any, encoding: str, errors: str) -> tuple[str | None, str | None]:
        """Return the captured text of each stream, or ``None`` for a stream that is not a pipe.

        :raises UnicodeDecodeError: the output is not valid in its encoding.
        """
        return (
            None if process.stdout is None else self.stdout.text(encoding, errors),
            None if process.stderr is None else self.stderr.text(encoding, errors),
        )

    def data(self, process: Any) -> tuple[bytes | None, bytes | None]:
        """Return the captured bytes of each stream, or ``None`` for a stream that is not a pipe."""
        return (
            None if process.stdout is None else self.stdout.data(),
            None if process.stderr is None else self.stderr.data(),
        )


def encoded_input(process: Any, input: Any) -> Any:
    """Encode `input` as the SandboxPopen `process` does; return bytes or None unchanged."""
    if process.text_mode and input is not None:
        return input.encode(process.stdin.encoding, process.stdin.errors)
    return input


def _write(fd: int, data: memoryview) -> int:
    """Write to a pipe that has room; return the number of bytes that were written.

    If the pipe has no reader, the result is the size of `data`, so that the caller stops writing.
    """
    try:
        return os.write(fd, data[: select.PIPE_BUF])
    except BrokenPipeError:
        return len(data)
