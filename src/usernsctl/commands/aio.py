"""Commands in namespaces, with arguments, streams and results as in asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from usernsctl._lean import LateModule
from usernsctl._system.descriptors import AsyncClosing, warn_forgotten
from usernsctl._system.target import Joinable
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.commands.async_start import start_in_thread
from usernsctl.commands.popen import TRACER_SECONDS, Popen, TimeoutExpired
from usernsctl.errors import UsernsError
from usernsctl.maps import AnyIdMap

if TYPE_CHECKING:
    from usernsctl.commands import options
else:
    options = LateModule("usernsctl.commands.options")

__all__ = ["Process", "create_subprocess_exec", "wait_for_end"]

# The default limit of asyncio.StreamReader, in bytes.
_LIMIT = 2**16

# Timeout, in seconds, for waiting for a killed command that no event loop reaps.
_END_SECONDS = 5

# Timeout, in seconds, for a sandbox's agent to kill a command. After the timeout, the command's
# socket is shut down.
_GIVE_UP_SECONDS = 1

# Popen's arguments for text mode and buffering, each with the values that asyncio accepts.
_BYTES_ONLY: dict[str, tuple[Any, ...]] = {
    "universal_newlines": (None, False),
    "text": (None, False),
    "encoding": (None,),
    "errors": (None,),
    "bufsize": (0,),
}


class Process(asyncio.subprocess.Process, AsyncClosing):
    """An :class:`asyncio.subprocess.Process` that :func:`create_subprocess_exec` has started.

    A Process is an asynchronous context manager. At the end of the block, it closes the caller's
    ends of the pipes, as :class:`subprocess.Popen` does: a command that writes receives SIGPIPE,
    and a command that reads receives end of file (pipe(7)). Then it waits for the command. If the
    block was left by an exception, such as a timeout or a cancellation, the command is killed
    first.
    """

    async def _leave(self, error: BaseException | None) -> None:
        transport: _Transport = self._transport  # type: ignore[attr-defined]
        self._close_pipes()
        if error is not None:
            transport.kill_all()
        try:
            await self.wait()
        except asyncio.CancelledError:
            transport.kill_all()
            await self.wait()
            raise

    def _close_pipes(self) -> None:
        transport: asyncio.SubprocessTransport = self._transport  # type: ignore[attr-defined]
        for fd in (0, 1, 2):
            pipe = transport.get_pipe_transport(fd)
            if pipe is not None:
                # The event loop closes the pipe once it has written all data.
                pipe.close()


_ProcessT = TypeVar("_ProcessT", bound=Process)


async def create_subprocess_exec(
    program: StrOrBytesPath,
    *args: StrOrBytesPath,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.StreamOptions],
) -> Process:
    """Start a command in new namespaces, like :func:`asyncio.create_subprocess_exec`.

    The exit of the command is detected through a pidfd, without a signal handler, in any event loop
    that has ``add_reader``.

    Starting a command blocks the event loop for a millisecond, or longer if newuidmap writes the id
    map; an existing :class:`usernsctl.Namespace` avoids that. In an existing namespace, a thread
    starts the command, except with `pdeathsig`, because root inside could delay the start.

    If this call is cancelled, the command is killed and reaped before the call returns. An
    exception is a command that a thread is still starting: another thread kills the command as soon
    as it has started. If a Process is garbage collected while the command runs, the command is
    killed, with a :class:`ResourceWarning`.

    :param program: the command.
    :param args: the arguments of the command.
    :param idmap: the id map of the new user namespace; see :class:`usernsctl.Popen`.
    :param namespace: an existing namespace to join instead of `idmap`.
    :param arguments: the arguments of :class:`usernsctl.Popen`, except those for text mode and
        buffering; and `limit`, the size of the streams' buffers in bytes.
    :raises ValueError: text was requested, but the streams carry bytes.
    :raises UsernsError: as :class:`usernsctl.Popen` does.
    """
    others: dict[str, Any] = {**arguments}
    limit = take_limit(others)
    argv = [program, *args]
    if namespace is None or others.get("pdeathsig"):
        popen = Popen[bytes](argv, 0, idmap=idmap, namespace=namespace, **others)
    else:
        popen = await start_in_thread(
            lambda: Popen[bytes](argv, 0, idmap=idmap, namespace=namespace, **others), _end
        )
    return await connected(popen, limit, Process)


def _end(popen: Popen[bytes]) -> None:
    """Kill and reap a command whose start was cancelled."""
    with popen:
        popen.kill()


def take_limit(arguments: dict[str, Any]) -> int:
    """Remove `limit`, and the arguments in _BYTES_ONLY, from `arguments`; return `limit`'s value.

    :raises ValueError: an argument requests text streams or buffering.
    """
    for name, accepted in _BYTES_ONLY.items():
        if name in arguments and arguments.pop(name) not in accepted:
            raise ValueError(f"{name} is not supported: asyncio's streams carry bytes, unbuffered")
    limit: int = arguments.pop("limit", _LIMIT)
    return limit


async def connected(popen: Any, limit: int, kind: type[_ProcessT]) -> _ProcessT:
    """Connect the pipes and the pidfd of a command to the event loop; return its Process.

    If this call is cancelled, the command is killed and reaped before the call returns.

    :param popen: an unbuffered Popen, or a SandboxPopen.
    :param limit: the size of the streams' buffers, in bytes.
    :param kind: the class of the result, a subclass of :class:`Process`.
    :raises asyncio.CancelledError: the call was cancelled.
    """
    loop = asyncio.get_running_loop()
    protocol = SubprocessStreamProtocol(limit=limit, loop=loop)
    transport = _Transport(loop, protocol, popen)
    connecting = loop.create_task(transport.connect())
    try:
        # Shield the task from cancellation: in a cancelled task, uvloop would close the descriptor
        # of a pipe, but not the pipe's file object.
        await asyncio.shield(connecting)
    except BaseException:
        connecting.add_done_callback(lambda _: transport.close())
        await transport._wait()
        raise
    return kind(transport, protocol, loop)


async def wait_for_end(pidfd: int) -> None:
    """Wait until the process of a pidfd has exited. Cancellation does not kill the process."""
    # Duplicate the pidfd, because several tasks may wait for the process, and an event loop has
    # only one reader for each descriptor.
    own = os.dup(pidfd)
    try:
        await wait_readable(own)
    finally:
        os.close(own)


async def wait_readable(fd: int) -> None:
    """Wait until a descriptor can be read, or is at end of file.

    Only one task at a time may wait for a descriptor, because an event loop has only one reader for
    each descriptor.
    """
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(fd, _set, readable)
    try:
        await readable
    finally:
        loop.remove_reader(fd)


def _set(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


class _Transport(asyncio.SubprocessTransport):
    """The transport between a command and the event loop.

    :class:`asyncio.subprocess.Process` calls the documented methods of a transport, and `_wait`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: SubprocessStreamProtocol,
        popen: Any,
    ) -> None:
        super().__init__({"subprocess": popen})
        self._closed = True
        self._creator = os.getpid()
        self._loop = loop
        self._protocol = protocol
        self._popen = popen
        streams = enumerate((popen.stdin, popen.stdout, popen.stderr))
        self._streams = {fd: stream for fd, stream in streams if stream is not None}
        self._pipes: dict[int, _Pipe] = {}
        self._ended = loop.create_future()
        self._giving_up: asyncio.TimerHandle | None = None
        # Postponed calls of protocol methods; None once connection_made() was called.
        self._early: list[Callable[[], None]] | None = []
        # In a sandbox, keep the command's socket open until the pipes are closed: background
        # processes may use the command's standard streams after the command has exited.
        popen._watch()
        self._watched = popen.pidfd
        try:
            loop.add_reader(self._watched, self._reap)
        except BaseException:
            popen._kill_all()
            for stream in self._streams.values():
                stream.close()
            _wait_for_killed(popen)
            raise
        self._closed = False

    async def connect(self) -> None:
        """Connect the pipes to the event loop."""
        for fd, stream in self._streams.items():
            self._pipes[fd] = pipe = _Pipe(self, fd)
            if fd == 0:
                await self._loop.connect_write_pipe(lambda p=pipe: p, stream)  # type: ignore[misc]
            else:
                await self._loop.connect_read_pipe(lambda p=pipe: p, stream)  # type: ignore[misc]
        self._protocol.connection_made(self)
        early, self._early = self._early, None
        for call in early or ():
            call()

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of the protocol, or postpone the call until after connection_made()."""

        def call() -> None:
            getattr(self._protocol, method)(*arguments)

        if self._early is None:
            call()
        else:
            self._early.append(call)

    def _reap(self) -> None:
        """Reap the command once its pidfd is readable (pidfd_open(2))."""
        # First stop watching the pidfd, because Popen.poll() closes the pidfd, and the kernel may
        # reuse the descriptor's number for another file.
        self._loop.remove_reader(self._watched)
        self._collect()

    def _collect(self) -> None:
        failure = None
        try:
            if self._popen.poll() is None:
                # Try again later: the pidfd is readable as soon as the command has exited, but the
                # parent receives the exit status only after a tracer has (ptrace(2)).
                self._loop.call_later(TRACER_SECONDS, self._collect)
                return
        except UsernsError as error:
            failure = error
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)
            # Retrieve the exception, so that asyncio does not log that it was never retrieved.
            self._ended.exception()
        if self._giving_up is not None:
            self._giving_up.cancel()
        if self._closed:
            self._popen._unwatch()
        self.tell("process_exited")

    async def _wait(self) -> int | None:
        # Shield the future from cancellation, because several tasks wait for it, and cancelling one
        # task must not cancel the future.
        await asyncio.shield(self._ended)
        return self.get_returncode()

    def get_pid(self) -> int:
        pid: int = self._popen.pid
        return pid

    def get_returncode(self) -> int | None:
        status: int | None = self._popen.returncode
        return status

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        pipe = self._pipes.get(fd)
        return None if pipe is None else pipe.transport

    def send_signal(self, signal_number: int) -> None:
        # Do not call Popen.send_signal(), which could reap the command, and close the pidfd that
        # the event loop watches.
        self._popen._signal(signal_number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill the command and, in a sandbox, all processes that it started."""
        self._popen._kill_all()
        if self._popen.returncode is None and self._giving_up is None:
            # Wait only for a limited time: in a sandbox, the agent kills the command, but root in
            # the sandbox may have stopped the agent.
            self._giving_up = self._loop.call_later(_GIVE_UP_SECONDS, self._popen._abandon)

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Close the pipes, and kill the command if it still runs.

        The event loop reaps the command. If the event loop is closed, this method reaps the
        command.
        """
        if self._closed:
            return
        self._closed = True
        if self._popen.returncode is None:
            with contextlib.suppress(PermissionError):
                self._popen._kill_all()
        else:
            self._popen._unwatch()
        is_over = self._loop.is_closed()
        for fd, stream in self._streams.items():
            pipe_transport = self.get_pipe_transport(fd)
            if pipe_transport is None:
                stream.close()
            elif not is_over:
                pipe_transport.close()
        if is_over:
            _wait_for_killed(self._popen)

    def __del__(self) -> None:
        # Do nothing in a forked child, because the parent owns the command.
        if not self._closed and os.getpid() == self._creator:
            try:
                warn_forgotten(self, f"subprocess {self._popen.pid} is still running")
            finally:
                self.close()


def _wait_for_killed(popen: Any) -> None:
    """Reap a killed command without an event loop.

    If the command has changed its uid, and so survived because kill(2) failed with EPERM,
    subprocess reaps it later.
    """
    with contextlib.suppress(TimeoutExpired, UsernsError):
        popen.wait(_END_SECONDS)
    popen._abandon()
    popen._unwatch()


class _Pipe(asyncio.Protocol):
    """The asyncio protocol of a pipe; it forwards events to the protocol of the command."""

    def __init__(self, owner: _Transport, fd: int) -> None:
        self.transport: asyncio.BaseTransport | None = None
        self._owner = owner
        self._fd = fd

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._owner.tell("pipe_data_received", self._fd, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.tell("pipe_connection_lost", self._fd, error)

    def pause_writing(self) -> None:
        self._owner.tell("pause_writing")

    def resume_writing(self) -> None:
        self._owner.tell("resume_writing")
