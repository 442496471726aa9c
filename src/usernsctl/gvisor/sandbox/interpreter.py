"""A persistent Python interpreter in a sandbox: it runs code, and keeps the code's variables."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import cache
from selectors import EVENT_READ, EVENT_WRITE, EpollSelector
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypedDict, Unpack

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

#: The default timeout of :meth:`Interpreter.run`, in seconds.
RUN_SECONDS = 300.0
#: The default maximum size of an execution's value and of its captured output per stream, in bytes.
OUTPUT_BYTES = 1 << 20

# The timeout for an interpreter to exit after it was killed or has closed its connection, in
# seconds.
_END_SECONDS = 1

#: The values of :attr:`Execution.reason`.
EndReason = Reason | Literal["invalid-answer"]


class InterpreterOptions(TypedDict, total=False):
    """Keyword arguments that :meth:`usernsctl.Sandbox.interpreter` shares with ``popen()``."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: str | tuple[int, int] | None
    groups: Iterable[int] | None
    rlimits: Iterable[Rlimit | str] | None


class ExceptionInfo(NamedTuple):
    """The description, from the interpreter, of an exception that the executed code raised.

    :ivar str type: the name of the exception's class, such as ``"ZeroDivisionError"``.
    :ivar str message: the exception's message, as :class:`str` returns it.
    :ivar str traceback: the traceback that Python would print.
    """

    type: str
    message: str
    traceback: str

    def __str__(self) -> str:
        """Return the traceback as Python would print it."""
        return self.traceback


class Execution(NamedTuple):
    """The result of running code in a persistent interpreter.

    Only `reason` and the numbers come from this process. All other values come from the sandbox,
    where the code may have forged them.

    :ivar str stdout: the output to descriptor 1, including the output of subprocesses.
    :ivar str stderr: the output to descriptor 2, including the output of subprocesses.
    :ivar value: the value of the last statement if that is an expression. The value was converted
        to JSON and back, so tuples have become lists. ``None`` if the value can't be converted to
        JSON, if the JSON is longer than `max_output`, or if Python can't parse the JSON, such as
        that of an int with more than 4300 digits.
    :ivar text: the :func:`repr` of the value; ``None`` if there is no value. The middle of a long
        text is left out.
    :ivar error: the exception that the code raised, or ``None``. The middle of a long text is left
        out.
    :ivar reason: ``None`` while the interpreter keeps running. Once the interpreter has exited, the
        reason, as in :class:`usernsctl.Result`: the code exited or crashed the interpreter, or the
        interpreter was killed. ``"timeout"`` also means that the code took more than `timeout`
        seconds. ``"invalid-answer"`` means that the interpreter sent an invalid answer, or closed
        its connection without exiting.
    :ivar int stdout_truncated: the number of bytes that are missing in the middle of `stdout`.
    :ivar int stderr_truncated: the number of bytes that are missing in the middle of `stderr`.
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
    """The unsent part of a request to an interpreter, and the received part of the answer.

    The object also keeps the output that the code has written.
    """

    def __init__(self, code: str, variables: Mapping[str, Any], limit: int) -> None:
        """Encode the request.

        :param limit: the maximum size of the value, of the captured standard output and of the
            captured standard error, in bytes each.
        :raises TypeError: a variable can't be converted to JSON.
        :raises ValueError: a variable can't be converted to JSON.
        """
        try:
            names = json.dumps(variables)
        except RecursionError:
            raise ValueError("variables are nested too deeply to be converted to JSON") from None
        # Use a random id, so that code can't forge the answer to a later request in advance.
        self._id = os.urandom(16).hex()
        self._limit = limit + ENVELOPE_BYTES
        # Nest the JSON of the variables as a string in the JSON of the request: if the interpreter
        # can't parse the variables, it can still report the exception as the error of the code.
        fields = {"id": self._id, "code": code, "variables": names, "limit": self._limit}
        self._left = memoryview(json.dumps(fields).encode() + b"\n")
        self._answer = bytearray()
        self.stdout = KeptOutput(limit)
        self.stderr = KeptOutput(limit)

    def send(self, connection: Connection) -> bool:
        """Send a part of the request; return whether another part has to be sent."""
        try:
            # Avoid SIGPIPE, whose default action would kill this process: the untrusted interpreter
            # may close its end of the connection at any time.
            sent = connection.send(self._left[:MESSAGE_BYTES], socket.MSG_NOSIGNAL)
            self._left = self._left[sent:]
        except BlockingIOError:
            pass
        except ConnectionError:
            # The interpreter has closed its end of the connection; receive() will report end of
            # file.
            self._left = self._left[:0]
        return bool(self._left)

    def receive(self, connection: Connection) -> bool:
        """Receive a part of the answer; return whether this was the last part.

        recv(2) discards descriptors, which a hostile program may send with the data (unix(7)).
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
        """Return whether a whole line has been received, or more data than an answer may have."""
        return self._answer.endswith(b"\n") or len(self._answer) > self._limit

    def decode(self) -> dict[str, Any] | None:
        """Return the answer as fields of :class:`Execution`; ``None`` if the answer is invalid."""
        fields, tab, value = self._answer.partition(b"\t")
        match _loads(fields):
            case {"id": self._id, "error": None, "text": None | str() as text} if tab:
                return {"text": text, "value": _loads(value)}
            case {"id": self._id, "error": [str() as kind, str() as message, str() as traceback]}:
                return {"error": ExceptionInfo(kind, message, traceback)}
        return None

    def execution(self, **fields: Any) -> Execution:
        """Return the result of the code, with the output received so far."""
        return Execution(
            self.stdout.text("utf-8", "replace"),
            self.stderr.text("utf-8", "replace"),
            stdout_truncated=self.stdout.truncated,
            stderr_truncated=self.stderr.truncated,
            **fields,
        )


def _loads(text: bytearray) -> Any:
    """Parse a JSON text; return ``None`` if Python can't parse it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Interpreter(ClosingMixin):
    """A persistent Python interpreter in a sandbox: see :meth:`usernsctl.Sandbox.interpreter`.

    The interpreter runs the code of one call at a time, in the namespace of ``__main__``, and keeps
    the variables. It ends when it is closed, when its sandbox ends, when the code exits or crashes
    it, when :meth:`run` exceeds its time limit or is interrupted, or when its answer is invalid.
    All processes that it has started are then killed.

    An Interpreter is a context manager, also an asynchronous one, that closes the interpreter on
    exit.

    Code can change what later code in the same interpreter does, and forge the results of later
    code, so don't run code of different users in one interpreter.
    """

    _what = "an interpreter"
    # The reason why the interpreter has ended; None while the interpreter runs. When the reason is
    # set, the descriptors are closed.
    _reason: EndReason | None = "start-failed"

    def __init__(
        self,
        commands: SandboxCommands,
        process: SandboxPopen[bytes],
        connection: Connection,
        max_output: int,
    ) -> None:
        """Take ownership of the process of an interpreter, and of the connection to it.

        Users of the package call :meth:`usernsctl.Sandbox.interpreter` instead.
        """
        self._commands = commands
        self._process = process
        self._connection = connection
        self._limit = max_output
        # A list that is empty while a thread or task uses the interpreter (see _claim()).
        self._unclaimed: list[object] = [None]
        self._streams: dict[str, Any] = {"stdout": process.stdout, "stderr": process.stderr}
        # All files that _release() closes.
        self._files: list[Any] = [connection, *self._streams.values()]
        try:
            self._selector = EpollSelector()
            self._files.append(self._selector)
            # Duplicate the pidfd, because process.poll() closes the original.
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
        """Run code in the interpreter, and wait until it has finished.

        Output that background threads and processes write after that belongs to the result of the
        next call.

        :param str code: the source of the code. If it ends with an expression, the result contains
            the expression's value.
        :param variables: variables to set before the code runs: a mapping from names to values that
            can be converted to JSON. If the interpreter's Python can't parse the JSON, because its
            limits are lower, the code does not run, and the exception is the result's `error`.
        :param float timeout: the time limit, in seconds, by default 300; ``None`` means no limit.
            When it expires, the interpreter and all processes that it has started are killed.
        :raises TypeError: an argument has the wrong type, or a variable can't be converted to JSON.
        :raises ValueError: the interpreter has ended, or an argument has a wrong value.
        :raises RuntimeError: the interpreter is already running code.
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
        """Run code in the interpreter, without blocking the event loop: see :meth:`run`.

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
        """Run code, as a generator that never blocks.

        While the code runs, the generator yields a timeout in seconds, or ``None``. The caller then
        waits for an event of the selector with this timeout, and resumes the generator.

        :param results: a list to which the generator appends the result.
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
                # Read the rest of the code's output. All of it is in the pipes, because the code
                # wrote it before the interpreter sent the answer.
                self._read_output(exchange)
                results.append(exchange.execution(**fields))
                return
            reason: EndReason | None = "invalid-answer" if exchange.has_answer else None
            yield from self._end(exchange, reason if is_over else "timeout")
            results.append(exchange.execution(reason=self._reason))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Reserve the interpreter for the body of the ``with`` statement.

        If the body raises an exception, the interpreter is killed.
        """
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
            # If another thread has called close() meanwhile, this thread must close the
            # descriptors.
            if self._is_closed:
                self.close()

    @contextlib.contextmanager
    def _claim(self) -> Iterator[bool]:
        """Reserve the interpreter; yield False if another thread or task uses the interpreter.

        The method uses no lock, because an exception that a signal handler raises could leave a
        lock held. Instead, the method takes the only item out of a list, and at the end puts the
        item back. `extend` moves the item in C, where Python runs no signal handler.
        """
        claimed: list[object] = []
        try:
            with contextlib.suppress(IndexError):
                claimed.extend(map(self._unclaimed.pop, [-1]))
            yield bool(claimed)
        finally:
            self._unclaimed.extend(claimed)

    def _step(self, exchange: _Exchange) -> bool:
        """Send and receive data without blocking; return whether `exchange` is complete."""
        ready = {key.fileobj: events for key, events in self._selector.select(0)}
        self._read_output(exchange)
        events = ready.get(self._connection, 0)
        if events & EVENT_WRITE and not exchange.send(self._connection):
            self._selector.modify(self._connection, EVENT_READ)
        if events & EVENT_READ:
            return exchange.receive(self._connection)
        return self._pidfd in ready

    def _read_output(self, exchange: _Exchange) -> None:
        """Read all output that is in the pipes. A pipe contains at most READ_BYTES (pipe(7))."""
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
        """Kill the interpreter. This generator never blocks: see :meth:`_execute`.

        :param reason: the reason why the interpreter is killed; ``None`` if the interpreter has
            closed its connection, as it does when it exits.
        """
        self._selector.unregister(self._connection)
        if reason is None and not (yield from self._await_end(exchange)):
            reason = "invalid-answer"
        # Kill all processes even if the interpreter has exited, since processes that it started may
        # still run.
        self._process._kill_all()
        yield from self._await_end(exchange)
        self._process._raises_limit = False
        if self._process.poll() is None:
            self._process._abandon()
        self._read_output(exchange)
        result = self._commands._result(self._process, None, None, check=False, bounds=None)
        self._release("killed" if self.closed else reason or result.reason)

    def _await_end(self, exchange: _Exchange) -> Generator[float | None, None, bool]:
        """Wait until the process exits, for at most _END_SECONDS; return whether it has exited."""
        deadline = time.monotonic() + _END_SECONDS
        while self._pidfd not in [key.fileobj for key, _ in self._selector.select(0)]:
            if time.monotonic() >= deadline:
                return False
            yield seconds_left(deadline)
            self._read_output(exchange)
        return True

    def _release(self, reason: EndReason) -> None:
        """Set :attr:`reason` unless it is set already, and close all descriptors."""
        self._reason = self._reason or reason
        for file in self._files:
            file.close()

    @property
    def reason(self) -> EndReason | None:
        """The reason why the interpreter has ended, as in :class:`Execution`.

        ``None`` until a method of this object has noticed that the interpreter has ended.
        """
        return self._reason

    def close(self) -> None:
        """Kill the interpreter and all processes that it has started. Repeated calls do nothing.

        Any thread may call this method at any time. A :meth:`run` in another thread then ends. In a
        forked child of the process that started the interpreter, the method only closes
        descriptors.
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
            # Close the descriptors at each call, since an exception may have interrupted the first
            # call.
            self._release("killed")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Interpreter can't be copied or pickled, because of its descriptors; start another"
        )

    def _holds(self) -> bool:
        return self._reason is None


class InterpreterMixin:
    """The methods of a sandbox that start persistent interpreters."""

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

        :param python: the interpreter in the sandbox (Python 3.8 or later): a path, or a name that
            is looked up in PATH.
        :param int max_output: the number of bytes to capture from standard output, and as many from
            standard error, in each execution; by default 1 MiB. The JSON of the value and of the
            result's strings may together have 4 KiB more than `max_output`.
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
        """Start a Python interpreter, without blocking the event loop: see :meth:`interpreter`.

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
    """Yield the command of an interpreter, options for popen(), and the caller's end of a socket.

    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: an argument has a wrong value.
    :raises CommandError: the process or the host has no free file descriptor.
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
    """Return the source of interpreter_loop.py, the program that the interpreter runs.

    :raises OSError: the process or the host has no free file descriptor.
    """
    from importlib import resources

    loop = resources.files(__package__).joinpath("interpreter_loop.py")
    return f"{loop.read_text('utf-8')}\nserve()"
