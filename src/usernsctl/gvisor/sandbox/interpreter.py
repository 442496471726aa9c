"""A kept Python interpreter in a sandbox, which runs code and keeps its variables."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import cache
from selectors import EVENT_READ, EVENT_WRITE, EpollSelector
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

from usernsctl._lean import LateModule
from usernsctl._system.descriptors import (
    Connection,
    deadline_after,
    open_owned,
    seconds_left,
    socket_pair,
    wait_readable,
)
from usernsctl.commands.arguments import Args, StrOrBytesPath, check_keywords, check_timeout
from usernsctl.commands.async_start import ClosingMixin
from usernsctl.commands.popen import PIPE
from usernsctl.errors import CommandError
from usernsctl.gvisor.agent.commands import SandboxCommands
from usernsctl.gvisor.agent.popen import SandboxPopen
from usernsctl.gvisor.oci import Rlimit
from usernsctl.gvisor.output import READ_BYTES, KeptOutput, check_max_output
from usernsctl.gvisor.result import Reason
from usernsctl.gvisor.sandbox.interpreter_loop import ENVELOPE_BYTES, MESSAGE_BYTES

if TYPE_CHECKING:
    import asyncio

    from usernsctl.commands import aio
else:
    asyncio = LateModule("asyncio")
    aio = LateModule("usernsctl.commands.aio")

#: The default time limit of :meth:`Interpreter.run`, in seconds.
RUN_SECONDS = 300.0
#: The default maximum size of each output and of the value of a piece of code, in bytes.
OUTPUT_BYTES = 1 << 20

# The time limit for the end of an interpreter that was killed or has closed its connection, in
# seconds.
_END_SECONDS = 1

#: Why an interpreter has ended, see :class:`Execution`.
EndReason = Reason | Literal["invalid-answer"]


class InterpreterOptions(TypedDict, total=False):
    """Keyword arguments of :meth:`usernsctl.Sandbox.interpreter`, as of its method ``popen``."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: str | tuple[int, int] | None
    groups: Iterable[int] | None
    rlimits: Iterable[Rlimit | str] | None


class ExceptionInfo(NamedTuple):
    """The exception that a piece of code raised, as the interpreter describes it.

    :ivar str type: the name of its class, such as ``"ZeroDivisionError"``.
    :ivar str message: its text.
    :ivar str traceback: the traceback that Python would print.
    """

    type: str
    message: str
    traceback: str

    def __str__(self) -> str:
        """Return the traceback."""
        return self.traceback


class Execution(NamedTuple):
    """The result of a piece of code that a kept interpreter has run.

    Only `reason` and the numbers come from this process. All the rest comes from inside, where
    code may have forged it.

    :ivar str stdout: the output to descriptor 1, also of subprocesses.
    :ivar str stderr: the output to descriptor 2, likewise.
    :ivar value: the value of the last statement if that is an expression, as JSON has it: tuples
        are lists. ``None`` if the value is not JSON, is too long for `max_output`, or is JSON that
        Python can't read, as an int of more than 4300 digits.
    :ivar text: the :func:`repr` of that value; ``None`` without a value. The middle of a long text
        is missing.
    :ivar error: the exception that ended the code, or ``None``. The middle of long texts is
        missing.
    :ivar reason: ``None`` while the interpreter keeps running. Otherwise the reason of its end, as
        in :class:`usernsctl.Result`: the code exited or crashed it, or it was killed. ``"timeout"``
        is also the reason if the code took more than `timeout` seconds, and ``"invalid-answer"`` if
        the interpreter sent one, or closed its connection.
    :ivar int stdout_truncated: the number of bytes that `stdout` lacks in its middle.
    :ivar int stderr_truncated: the number of bytes that `stderr` lacks, likewise.
    """

    stdout: str
    stderr: str
    value: Any = None
    text: str | None = None
    error: ExceptionInfo | None = None
    reason: EndReason | None = None
    stdout_truncated: int = 0
    stderr_truncated: int = 0


class _Exchange:
    """A request, as far as it was not sent, and the answer and the output, as far as received."""

    def __init__(self, code: str, variables: Mapping[str, Any], limit: int) -> None:
        """Encode the request.

        :param limit: the number of bytes of each output and of the value to keep.
        :raises TypeError: a variable is not JSON.
        :raises ValueError: a variable is not JSON.
        """
        # Code that runs can't know the id of the next request, and so can't answer that in advance.
        self._id = os.urandom(16).hex()
        self._limit = limit + ENVELOPE_BYTES
        fields = {"id": self._id, "code": code, "variables": variables, "limit": self._limit}
        self._left = memoryview(json.dumps(fields).encode() + b"\n")
        self._answer = bytearray()
        self.stdout = KeptOutput(limit)
        self.stderr = KeptOutput(limit)

    def send(self, connection: Connection) -> bool:
        """Send a part of the request; return whether more is left."""
        try:
            # The interpreter decides when its end is closed: SIGPIPE would kill this process if its
            # action is the default.
            sent = connection.send(self._left[:MESSAGE_BYTES], socket.MSG_NOSIGNAL)
            self._left = self._left[sent:]
        except BlockingIOError:
            pass
        except ConnectionError:
            # The interpreter has closed its end: receive() will return true.
            self._left = self._left[:0]
        return bool(self._left)

    def receive(self, connection: Connection) -> bool:
        """Receive a part of the answer; return whether it is the last part.

        recv(2) discards descriptors that a hostile program sends along.
        """
        try:
            part = connection.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            part = b""
        self._answer += part
        return not part or self.has_answer

    @property
    def has_answer(self) -> bool:
        """Return whether a line was received, or more than an answer may have."""
        return self._answer.endswith(b"\n") or len(self._answer) > self._limit

    def decode(self) -> dict[str, Any] | None:
        """Return the fields of an :class:`Execution` in the answer; ``None`` if it is invalid."""
        fields, tab, value = self._answer.partition(b"\t")
        match _loads(fields):
            case {"id": self._id, "error": None, "text": None | str() as text} if tab:
                return {"text": text, "value": _loads(value)}
            case {"id": self._id, "error": [str() as kind, str() as message, str() as traceback]}:
                return {"error": ExceptionInfo(kind, message, traceback)}
        return None

    def execution(self, **fields: Any) -> Execution:
        """Return the result, with the output so far."""
        return Execution(
            self.stdout.text("utf-8", "replace"),
            self.stderr.text("utf-8", "replace"),
            stdout_truncated=self.stdout.truncated,
            stderr_truncated=self.stderr.truncated,
            **fields,
        )


def _loads(text: bytearray) -> Any:
    """Return the object of a JSON text, or ``None`` if Python can't read the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Interpreter(ClosingMixin):
    """A kept Python interpreter in a sandbox, which :meth:`usernsctl.Sandbox.interpreter` starts.

    The interpreter runs one piece of code at a time, in the namespace of ``__main__``, and keeps
    its variables. The interpreter ends when it is closed, with its sandbox, when the code exits or
    crashes it, when :meth:`run` reaches its time limit or is interrupted, and when its answer is
    invalid. All processes that it has started are killed then. An Interpreter is a context manager,
    also an asynchronous one, that closes the interpreter at its end.

    Code in the interpreter can change what later code does and answers: use an interpreter for code
    of one user only.
    """

    _what = "an interpreter"
    # Why the interpreter has ended; its descriptors are closed then. None while it runs.
    _reason: EndReason | None = "start-failed"

    def __init__(
        self,
        commands: SandboxCommands,
        process: SandboxPopen[bytes],
        connection: Connection,
        max_output: int,
    ) -> None:
        """Take over the process of an interpreter, and the connection to it. Not for users."""
        self._commands = commands
        self._process = process
        self._connection = connection
        self._limit = max_output
        # Empty while a thread or task uses the interpreter: see _claim().
        self._unclaimed: list[object] = [None]
        self._streams: dict[str, Any] = {"stdout": process.stdout, "stderr": process.stderr}
        # All that _release() closes.
        self._files: list[Any] = [connection, *self._streams.values()]
        try:
            self._selector = EpollSelector()
            self._files.append(self._selector)
            # A duplicate: process.poll() closes the original.
            self._pidfd = open_owned(os.dup, process.pidfd)
            self._files.append(self._pidfd)
            for stream in self._streams.values():
                os.set_blocking(stream.fileno(), False)
            for file in (connection, self._pidfd, *self._streams.values()):
                self._selector.register(file, EVENT_READ)
        except BaseException:
            process._abandon()
            self._release("start-failed")
            raise
        self._reason = None

    def run(
        self,
        code: str,
        *,
        variables: Mapping[str, Any] | None = None,
        timeout: float | None = RUN_SECONDS,
    ) -> Execution:
        """Run code in the interpreter, and wait until it has run.

        Output of background threads and processes that they write after their code has run belongs
        to the result of the next code.

        :param str code: the source of the code. It may end by an expression, whose value is in the
            result.
        :param variables: variables to set before, by name. The values must be JSON.
        :param float timeout: the time limit, in seconds, by default 300; ``None``: no limit. At the
            limit, the interpreter is killed with all processes that it has started.
        :raises TypeError: an argument has the wrong type, or a value is not JSON.
        :raises ValueError: the interpreter has ended, or an argument has a wrong value.
        :raises RuntimeError: the interpreter runs code already.
        :raises RunscError: the agent failed (cause ``"sandbox-agent"``).
        """
        results: list[Execution] = []
        with contextlib.closing(self._execute(code, variables, timeout, results)) as waits:
            for seconds in waits:
                wait_readable(self._selector.fileno(), timeout=seconds)
        return results[0]

    async def run_async(
        self,
        code: str,
        *,
        variables: Mapping[str, Any] | None = None,
        timeout: float | None = RUN_SECONDS,
    ) -> Execution:
        """Run code in the interpreter from asyncio: see :meth:`run`.

        If this call is cancelled, the interpreter is killed.
        """
        results: list[Execution] = []
        with contextlib.closing(self._execute(code, variables, timeout, results)) as waits:
            for seconds in waits:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await aio.wait_readable(self._selector.fileno())
        return results[0]

    def _execute(
        self,
        code: str,
        variables: Mapping[str, Any] | None,
        timeout: float | None,
        results: list[Execution],
    ) -> Generator[float | None, None, None]:
        """Run code. Yield when the selector has no event: the seconds to wait, or None.

        :param results: a list to which the result is added.
        """
        if not isinstance(code, str):
            raise TypeError(f"code must be str, not {code!r}")
        check_timeout(timeout)
        exchange = _Exchange(code, dict(variables or {}), self._limit)
        with self._exclusive():
            deadline = deadline_after(timeout)
            if exchange.send(self._connection):
                self._selector.modify(self._connection, EVENT_READ | EVENT_WRITE)
            while not (is_over := self._step(exchange)):
                if deadline is not None and time.monotonic() >= deadline:
                    break
                yield seconds_left(deadline)
            fields = exchange.decode() if is_over else None
            if fields is not None:
                # Output that was written before the answer is in the pipes now.
                self._read_output(exchange)
                results.append(exchange.execution(**fields))
                return
            reason: EndReason | None = "invalid-answer" if exchange.has_answer else None
            yield from self._end(exchange, reason if is_over else "timeout")
            results.append(exchange.execution(reason=self._reason))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other threads and tasks from using the interpreter; kill it after an exception."""
        if os.getpid() != self._creator:
            raise ValueError("the interpreter belongs to the process that has started it")
        try:
            with self._claim() as is_free:
                if not is_free:
                    raise RuntimeError("the interpreter runs code already")
                if self._reason is not None:
                    raise ValueError(f"the interpreter has ended ({self._reason}): start another")
                try:
                    yield
                except BaseException:
                    self._process._abandon()
                    self._release("killed")
                    raise
        finally:
            # A close() in another thread has left the rest to this thread.
            if self._is_closed:
                self.close()

    @contextlib.contextmanager
    def _claim(self) -> Iterator[bool]:
        """Yield whether no other thread or task uses the interpreter, and keep others from it.

        There is no lock: an exception of a signal handler could leave it locked. Python runs no
        signal handler while `extend` moves the item in C.
        """
        claimed: list[object] = []
        try:
            with contextlib.suppress(IndexError):
                claimed.extend(map(self._unclaimed.pop, [-1]))
            yield bool(claimed)
        finally:
            self._unclaimed.extend(claimed)

    def _step(self, exchange: _Exchange) -> bool:
        """Transfer what is possible without waiting; return whether the exchange is over."""
        ready = {key.fileobj: events for key, events in self._selector.select(0)}
        self._read_output(exchange)
        events = ready.get(self._connection, 0)
        if events & EVENT_WRITE and not exchange.send(self._connection):
            self._selector.modify(self._connection, EVENT_READ)
        if events & EVENT_READ:
            return exchange.receive(self._connection)
        return self._pidfd in ready

    def _read_output(self, exchange: _Exchange) -> None:
        """Read all output that is in the pipes, which have room for READ_BYTES (pipe(7))."""
        for name, stream in list(self._streams.items()):
            with contextlib.suppress(BlockingIOError):
                data = os.read(stream.fileno(), READ_BYTES)
                getattr(exchange, name).add(data)
                if not data:
                    self._selector.unregister(stream)
                    del self._streams[name]

    def _end(
        self, exchange: _Exchange, reason: EndReason | None
    ) -> Generator[float | None, None, None]:
        """End the interpreter; yield as :meth:`_execute` does.

        :param reason: why to end it; ``None`` if it has closed its connection, as at its exit.
        """
        self._selector.unregister(self._connection)
        if reason is None and not (yield from self._await_end(exchange)):
            reason = "invalid-answer"
        # After the end of the interpreter, too: processes that it has started may still run.
        self._process._kill_all()
        yield from self._await_end(exchange)
        self._process._raises_limit = False
        if self._process.poll() is None:
            self._process._abandon()
        self._read_output(exchange)
        result = self._commands._result(self._process, None, None, check=False, bounds=None)
        self._release("killed" if self.closed else reason or result.reason)

    def _await_end(self, exchange: _Exchange) -> Generator[float | None, None, bool]:
        """Wait a moment for the end of the process; return whether the process has ended."""
        deadline = time.monotonic() + _END_SECONDS
        while self._pidfd not in [key.fileobj for key, _ in self._selector.select(0)]:
            if time.monotonic() >= deadline:
                return False
            yield seconds_left(deadline)
            self._read_output(exchange)
        return True

    def _release(self, reason: EndReason) -> None:
        """Close all descriptors."""
        self._reason = self._reason or reason
        for file in self._files:
            file.close()

    @property
    def reason(self) -> EndReason | None:
        """Why the interpreter has ended (see :class:`Execution`); ``None`` until a call notices."""
        return self._reason

    def close(self) -> None:
        """Kill the interpreter and all processes that it has started. A second call does nothing.

        Any thread may call this at any time; it ends a :meth:`run` in another thread. In a forked
        child of the process that started the interpreter, it only closes descriptors.
        """
        self._is_closed = True
        if os.getpid() != self._creator:
            self._release("killed")
            return
        with self._claim() as is_free:
            if not is_free:
                self._process._kill_all()
                return
            if self._reason is None:
                self._process._end()
            # Also at a second call, since an exception may have interrupted the first one.
            self._release("killed")

    def _holds(self) -> bool:
        return self._reason is None


class InterpreterMixin:
    """The methods of a sandbox that start kept interpreters."""

    _commands: SandboxCommands

    def _with_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NotImplementedError

    async def _with_defaults_async(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NotImplementedError

    def interpreter(
        self,
        python: StrOrBytesPath = "python3",
        *,
        max_output: int = OUTPUT_BYTES,
        **options: Unpack[InterpreterOptions],
    ) -> Interpreter:
        """Start a Python interpreter in the sandbox that runs code and keeps its variables.

        :param python: the interpreter inside, Python 3.8 or later: a path, or a name that is
            searched along PATH.
        :param int max_output: the number of bytes that are kept of the standard output and of the
            standard error of each piece of code; by default 1 MiB. The value and the texts of the
            result have at most 4 KiB more, as JSON.
        :param options: `env`, `cwd`, `user`, `groups` and `rlimits`, as for :meth:`popen`.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has a wrong value.
        :raises CommandError: as :meth:`popen` does.
        :raises RunscError: as :meth:`popen` does.
        """
        with _connected(python, max_output, options) as (args, wanted, ours):
            process = self._commands.start_program(args, self._with_defaults(wanted), None)
            return Interpreter(self._commands, process, ours, max_output)

    async def interpreter_async(
        self,
        python: StrOrBytesPath = "python3",
        *,
        max_output: int = OUTPUT_BYTES,
        **options: Unpack[InterpreterOptions],
    ) -> Interpreter:
        """Start a Python interpreter from asyncio: see :meth:`interpreter`.

        If this call is cancelled, the interpreter is killed.
        """
        with _connected(python, max_output, options) as (args, wanted, ours):
            completed = await self._with_defaults_async(wanted)
            process = await self._commands.start_program_async(args, completed)
            return Interpreter(self._commands, process, ours, max_output)


@contextlib.contextmanager
def _connected(
    python: StrOrBytesPath, max_output: int, options: InterpreterOptions
) -> Iterator[tuple[Args, Mapping[str, Any], Connection]]:
    """Yield the command and the options of an interpreter, and the connection to it.

    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: an argument has a wrong value.
    :raises CommandError: no descriptors are left.
    """
    check_keywords("Sandbox.interpreter", options, InterpreterOptions.__annotations__)
    check_max_output(max_output)
    try:
        program = _program()
        ours, theirs = socket_pair()
        try:
            with theirs:
                streams = {"stdin": theirs, "stdout": PIPE, "stderr": PIPE, "bufsize": 0}
                yield [python, "-c", program], {**options, **streams}, ours
        except BaseException:
            ours.close()
            raise
    except OSError as error:
        if type(error) is not OSError:
            raise
        what = "the connection to the interpreter"
        raise CommandError.from_os_error(error, what, step="stdio") from error


@cache
def _program() -> str:
    """Return the program of an interpreter.

    :raises OSError: no descriptors are left.
    """
    from importlib import resources

    loop = resources.files(__package__).joinpath("interpreter_loop.py")
    return f"{loop.read_text('utf-8')}\nserve()"
