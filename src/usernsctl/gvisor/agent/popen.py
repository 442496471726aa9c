"""Commands in a sandbox, with the interface of :class:`subprocess.Popen`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from subprocess import DEVNULL, STDOUT, TimeoutExpired
from typing import TYPE_CHECKING, Any, AnyStr, NamedTuple, NoReturn

from usernsctl import _core
from usernsctl._lean import LateModule
from usernsctl._system.descriptors import (
    ClosedError,
    SharedSocket,
    deadline_after,
    sealed_file,
    seconds_left,
    socket_pair,
    wait_readable,
)
from usernsctl.commands.arguments import Args, ChildArguments, StrOrBytesPath, check_streams
from usernsctl.commands.popen import drop_streams
from usernsctl.errors import CommandError, RunscError, UsernsError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent import protocol as wire
from usernsctl.gvisor.agent.activity import Activity
from usernsctl.gvisor.agent.protocol import (
    Agent,
    AgentClosed,
    AgentTimeout,
    AgentUnresponsive,
    agent_error,
    send_order,
    shut,
)
from usernsctl.gvisor.result import Usage
from usernsctl.gvisor.runsc.stdio import Streams, closed_streams

if TYPE_CHECKING:
    import asyncio

    from usernsctl.commands import aio
else:
    asyncio = LateModule("asyncio")
    aio = LateModule("usernsctl.commands.aio")

#: The default timeout for starting a command, in seconds.
START_SECONDS = 60

# The timeout for a killed command to exit, in seconds. A command that is still running then is
# killed by the agent, because the command's socket is shut down.
_END_SECONDS = 1

#: The default timeout of :meth:`SandboxPopen.kill_tree`, in seconds.
KILL_SECONDS = 10

# The timeout for a write to the command's socket, in seconds. An agent that does not read for that
# long is treated as stopped.
_ROOM_SECONDS = 1

# The maximum number of messages that are read and dropped when a command's socket is closed.
# usernsctl-agent sends fewer; a hostile agent could send messages without end.
_MESSAGES_MAX = 8

_MAX_INT = 2**31 - 1

# The number from which SandboxPopen.pid is computed. It is greater than every pid on the host: pids
# are less than 2**22 (PID_MAX_LIMIT, proc_sys_kernel(5)), and a futex has only 30 bits for a pid
# (FUTEX_TID_MASK, linux/futex.h).
_NO_PROCESS = 2**30


class CommandSpec(NamedTuple):
    """The process attributes of a command: environment, working directory, ids, limits, terminal.

    :ivar env: the whole environment, as ``NAME=VALUE`` entries.
    :ivar audited: the environment variables that the caller passed, for the audit event.
    """

    env: Sequence[bytes]
    audited: Mapping[str, str] | None = None
    cwd: str | None = None
    user: tuple[int, int] | None = None
    groups: Sequence[int] | None = None
    rlimits: Sequence[tuple[int, int, int]] = ()
    capabilities: int = 0
    size: tuple[int, int] | None = None


class Place(NamedTuple):
    """The sandbox in which a command is started.

    :ivar id: the container id.
    :ivar get_agent: a function that returns the sandbox's agent, and starts an agent if none is
        alive. The argument is the deadline of the start, as a :func:`time.monotonic` time.
    :ivar current_agent: a function that returns the agent if one is alive, else ``None``.
    :ivar ended: a function that returns an error if the sandbox has ended or ends within
        ENDING_SECONDS, else ``None``.
    :ivar limit_error: a function that returns an error if the sandbox ends because it exceeded a
        limit or memory ran out, else ``None``. The argument says whether the exit status of the
        command is unknown.
    :ivar kill: a function that kills the sandbox, and returns without waiting for the sandbox to
        end.
    :ivar begin: a function that is called before the start of a command. It returns ``None``, or an
        object whose ``end()`` must be called after the command's exit.
    """

    id: str
    get_agent: Callable[[float], Agent]
    current_agent: Callable[[], Agent | None]
    ended: Callable[[], Exception | None]
    limit_error: Callable[[bool], RunscError | None]
    kill: Callable[[], None]
    begin: Callable[[], Activity | None]


class SandboxPopen(subprocess.Popen[AnyStr]):
    """A command in a sandbox, as :meth:`usernsctl.Sandbox.popen` returns it.

    The class has the interface of :class:`subprocess.Popen`. Any thread may call any method at any
    time; a signal handler may call :meth:`kill`, :meth:`terminate` and :meth:`send_signal`. The
    command is not a process of the host kernel: `pid` is a number that no process has, so a system
    call with `pid` fails with ESRCH. The command is killed (SIGKILL) when the sandbox or the agent
    ends. Background processes of the command keep running after the command's exit, unless
    :meth:`kill_tree` is called while the command runs.

    :ivar int pid_inside: the pid of the command in the sandbox.
    :ivar rusage: the resource usage of the command as gVisor counts it (getrusage(2)): `utime` and
        `stime` in seconds, `maxrss` in KiB; ``None`` until the command has been waited for.
    """

    #: A descriptor for selectors and event loops that becomes readable when the command exits, like
    #: a pidfd (pidfd_open(2)); -1 once the command has been waited for. The descriptor is a socket:
    #: do not read from it.
    pidfd: int = -1

    pid: int
    pid_inside: int
    rusage: Usage | None = None
    # A class attribute, because __del__ reads `returncode` even if the constructor has raised.
    returncode = None
    _outlives = True
    # True if an event loop watches the socket. The socket then stays open after the command's exit,
    # because kill_tree() needs the socket to kill the command's background processes.
    _is_watched = False
    _shared: SharedSocket | None = None
    _activity: Activity | None = None
    # The error that names the limit that the sandbox exceeded, or None. poll() and wait() raise
    # this error if _raises_limit is true; otherwise SandboxCommands.run() reads the attribute.
    _limit_error: RunscError | None = None
    _raises_limit = True
    # True if the agent exited, or the sandbox ended, before the command exited.
    _is_lost = False

    def __init__(
        self,
        place: Place,
        spec: CommandSpec,
        args: Args,
        *,
        deadline: float,
        is_awaited: bool = True,
        outlives: bool = True,
        **arguments: Any,
    ) -> None:
        """Ask the agent to start the command.

        :param deadline: the deadline of the start, as a :func:`time.monotonic` time.
        :param is_awaited: whether to wait for the start. If false, the caller awaits
            :meth:`_start_async`, and this call fails at once if the agent's socket is full.
        :param outlives: whether the command keeps running when this object is garbage collected, as
            for :class:`subprocess.Popen`.
        :param arguments: the arguments of :class:`subprocess.Popen`; `stdin` is DEVNULL by default.
        :raises CommandError: the command could not be started.
        :raises RunscError: the agent failed.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has a wrong value, or is not supported.
        """
        self._place = place
        self._spec = spec
        self._deadline = deadline
        self._is_awaited = is_awaited
        self._outlives = outlives
        self._owner = os.getpid()
        # The command is not trusted, so it inherits standard input only if the caller passes
        # stdin=None.
        arguments.setdefault("stdin", DEVNULL)
        check_streams(**{name: arguments.get(name) for name in ("stdin", "stdout", "stderr")})
        self._absent_streams = closed_streams() | _take_nulls(arguments)
        try:
            self._activity = place.begin()
            super().__init__(args, **arguments)
        except BaseException as error:
            self._abandon()
            if type(error) is not OSError:
                raise
            # subprocess raises a plain OSError if it can't create pipes (EMFILE).
            raise CommandError.from_os_error(error, "the standard streams", step="stdio") from error

    def _execute_child(self, *arguments: Any) -> None:
        child = ChildArguments(*arguments)
        argv = child.argv()
        self._file = child.executable or argv[0]
        message, apart = _encoded(self._command(argv, child), argv)
        child.audit(argv, self._spec.cwd, self._spec.audited)
        with Streams(self._absent_streams) as streams:
            streams.add(child.p2cread, is_fresh=child.p2cwrite >= 0)
            streams.add(child.c2pwrite, is_fresh=child.c2pread >= 0)
            streams.add(child.errwrite, is_fresh=child.errread >= 0)
            self._ask(message, apart, streams.fds)
        if self._is_awaited:
            self._await_start()
        self._close_pipe_fds(*child.pipes)  # type: ignore[attr-defined]

    def _command(self, argv: Sequence[StrOrBytesPath], child: ChildArguments) -> wire.Command:
        """Return the command as a :class:`usernsctl.gvisor.agent.protocol.Command`.

        :raises OverflowError: a number is too large.
        :raises ValueError: `process_group` is the id of an existing process group, which a command
            cannot join.
        """
        spec = self._spec
        for name, number in (("umask", child.umask), ("process_group", child.group)):
            if not -1 <= number <= _MAX_INT:
                raise OverflowError(f"{name}: {number} is too large, or less than -1")
        if child.group > 0:
            raise ValueError(f"process_group: {child.group} can't be joined; 0 creates a new group")
        flags = wire.NEW_SESSION if child.start_new_session else 0
        flags |= wire.NEW_GROUP if child.group == 0 else 0
        flags |= wire.TERMINAL if spec.size is not None else 0
        return wire.Command(
            args=[os.fsencode(word) for word in argv],
            program=None if child.executable is None else os.fsencode(child.executable),
            cwd=os.fsencode(spec.cwd or "/"),
            env=spec.env,
            user=spec.user,
            groups=spec.groups,
            rlimits=spec.rlimits,
            umask=wire.UNCHANGED if child.umask < 0 else child.umask & 0o777,
            flags=flags,
            size=spec.size or (0, 0),
            capabilities=spec.capabilities,
        )

    # Methods that start the command.

    def _ask(self, message: bytes, apart: bytes, streams: Sequence[int]) -> None:
        try:
            ours, theirs = socket_pair()
            self._shared = SharedSocket("the command", ours)
            self.pidfd = ours.fileno()
            with theirs, contextlib.ExitStack() as opened:
                fds = [*streams, theirs.fileno()]
                if apart:
                    fds.append(opened.enter_context(sealed_file("words", apart)).fileno())
                self._send_once_or_twice(message, fds)
        except AgentTimeout:
            raise self._unresponsive_error() from None
        except OSError as error:
            if type(error) is not OSError:
                raise
            what = "the connection to the sandbox"
            raise CommandError.from_os_error(error, what, step="agent") from error

    def _send_once_or_twice(self, message: bytes, fds: Sequence[int]) -> None:
        """Send the start request to the agent, or to a new agent if the first has just exited."""
        # This call must not block if _start_async() awaits the start in an event loop.
        deadline = self._deadline if self._is_awaited else time.monotonic()
        for _ in range(2):
            agent = self._place.get_agent(deadline)
            with contextlib.suppress(AgentClosed):
                agent.send(message, fds, deadline)
                return
        raise self._place.ended() or self._agent_ended_error()

    def _await_start(self) -> None:
        shared = self._get()
        left = seconds_left(self._deadline)
        if not wait_readable(shared.socket.fileno(), timeout=left):
            raise self._unresponsive_error()
        self._finish_start()

    async def _start_async(self) -> None:
        """Wait for the start of the command, and read the agent's answer.

        If this call is cancelled, the command and all processes that it started are killed.

        :raises CommandError: the command could not be started.
        :raises RunscError: the agent failed.
        """
        try:
            try:
                async with asyncio.timeout(seconds_left(self._deadline)):
                    await aio.wait_for_end(self._get().socket.fileno())
            except TimeoutError:
                raise self._unresponsive_error() from None
            self._finish_start()
        except BaseException:
            self._abandon()
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    stream.close()
            raise

    def _finish_start(self) -> None:
        """Read the agent's answer about the start of the command.

        :raises CommandError: the command could not be started.
        :raises RunscError: the agent failed.
        """
        message = self._receive(0)
        if not message:
            self._raise_unanswered()
        try:
            start = wire.read_start(message)
        except wire.ProtocolError as lie:
            raise agent_error(self._place.id, f"sent an invalid message: {lie}") from None
        if isinstance(start, wire.Failed):
            raise self._failure(start)
        self.pid_inside = start.pid
        # Add the number of the socket's descriptor, which no other open file of this process has,
        # so that pids are unique. The pid must not be None: psutil.Process(None) is this process.
        self.pid = _NO_PROCESS + self.pidfd
        self._child_created = True

    def _raise_unanswered(self) -> NoReturn:
        """Raise the error for an agent that closed the command's socket without answering."""
        agent = self._place.current_agent()
        failed = None if agent is None else agent.receive_failure()
        if failed is not None:
            raise self._failure(failed)
        raise self._place.ended() or self._agent_ended_error()

    def _agent_ended_error(self) -> RunscError:
        return agent_error(self._place.id, "has ended before it started the command")

    def _unresponsive_error(self) -> RunscError:
        return agent_error(self._place.id, "does not answer", AgentUnresponsive)

    def _failure(self, failed: wire.Failed) -> UsernsError:
        if failed.step == "chdir":
            return _core.command_error(failed.step, failed.errno, self._spec.cwd or "/")
        if failed.step in ("lookup", "exec"):
            return _core.command_error(failed.step, failed.errno, os.fsdecode(self._file))
        return CommandError(
            f"the command could not be started in the sandbox {self._place.id}: "
            f"{os.strerror(failed.errno)}",
            step=failed.step,
            errno=failed.errno,
        )

    # Methods that wait for the exit of the command.

    # _internal_poll and _wait override private methods of subprocess that call waitpid(2), because
    # `pid` is not a child process. The overridden methods are the same from Python 3.11 to 3.14.

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        """Return the exit status of the command, or None while the command runs."""
        if self.returncode is None:
            try:
                self._read_end()
            except RunscError:
                # subprocess passes _deadstate only for an object that is or was garbage collected.
                # Ignore the error then, because no caller could handle it.
                if _deadstate is None:
                    raise
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        deadline = deadline_after(timeout)
        while self.returncode is None:
            with contextlib.suppress(ClosedError):
                shared = self._get()
                with shared.use():
                    fd = shared.socket.fileno()
                    if not wait_readable(fd, timeout=seconds_left(deadline)):
                        assert timeout is not None
                        raise TimeoutExpired(self.args, timeout)
            self._read_end()
        return self.returncode

    def _read_end(self) -> None:
        """Set `returncode` if the command has exited. Safe to call from several threads."""
        try:
            # MSG_PEEK leaves the message in the socket, for other threads that wait for the
            # command's exit.
            message = self._receive(socket.MSG_PEEK)
        except BlockingIOError:
            return
        except ClosedError:
            self._end_with(-signal.SIGKILL)
            return
        if not message:
            self._is_lost = True
            self._end_after_look(-signal.SIGKILL, is_gone=True)
            return
        try:
            ended = wire.read_end(message)
        except wire.ProtocolError as lie:
            self._abandon()
            self._end_with(-signal.SIGKILL)
            raise agent_error(self._place.id, f"sent an invalid message: {lie}") from None
        if ended.returncode:
            # Check whether the sandbox exceeded its memory limit: the host's OOM killer may have
            # killed the host process that runs the command.
            self._end_after_look(ended.returncode, ended.usage, is_gone=False)
        else:
            self._end_with(ended.returncode, ended.usage)

    def _end_after_look(self, status: int, usage: Usage | None = None, *, is_gone: bool) -> None:
        """Call :meth:`_look_for_limit`, which may block; then set `returncode`.

        `returncode` is set even if :meth:`_look_for_limit` raises.
        """
        try:
            self._look_for_limit(is_gone=is_gone)
        finally:
            self._end_with(status, usage)

    def _look_for_limit(self, *, is_gone: bool) -> None:
        """Set `_limit_error` if the sandbox exceeded a limit; raise it if `_raises_limit` is true.

        :param is_gone: whether the exit status of the command is unknown.
        """
        self._limit_error = self._place.limit_error(is_gone)
        if self._limit_error is not None and self._raises_limit:
            raise self._limit_error

    def _receive(self, flags: int) -> bytes:
        """Return the next message on the command's socket; empty if the agent closed its end.

        Descriptors that a hostile agent sends with the message are discarded by recv(2).

        :raises BlockingIOError: there is no message yet.
        :raises ClosedError: the socket is closed.
        """
        shared = self._get()
        with shared.use():
            for _ in range(2):
                # If the agent closes its end before it has read all messages of this process,
                # recv(2) fails once with ECONNRESET before it returns the agent's messages
                # (unix(7)).
                with contextlib.suppress(ConnectionError):
                    return shared.socket.recv(wire.MESSAGE_MAX, flags | socket.MSG_DONTWAIT)
        return b""

    def _get(self) -> SharedSocket:
        if self._shared is None:
            raise ClosedError("the command has not started")
        return self._shared

    def _end_with(self, status: int, usage: Usage | None = None) -> None:
        # End the activity before `returncode` is set: if a signal handler raises an exception in
        # between, `returncode` is still None, so a later call repeats all steps.
        if self._activity is not None:
            self._activity.end()
        if self.returncode is None:
            self.rusage = usage
            self.returncode = status
        self._close_unless_watched()

    def _watch(self) -> None:
        """Keep the socket open after the command's exit, until :meth:`_unwatch` is called."""
        self._is_watched = True

    def _unwatch(self) -> None:
        """Close the socket, now or as soon as the exit status of the command is known."""
        self._is_watched = False
        if self.returncode is not None:
            self._close_unless_watched()

    def _close_unless_watched(self) -> None:
        if self._is_watched:
            return
        self.pidfd = -1
        if self._shared is not None:
            self._drain(self._shared)
            self._shared.close()

    def _drain(self, shared: SharedSocket) -> None:
        """Read all remaining messages from the command's socket before the socket is closed.

        If a socket is closed while it has unread messages, the agent's next recv(2) fails with
        ECONNRESET (unix(7)), before the agent has received the last messages of this process.
        """
        if os.getpid() != self._owner:
            return
        with contextlib.suppress(OSError, ClosedError), shared.use():
            # Shut the socket down first, so that a thread that waits for a message sees end of
            # file.
            shut(shared.socket)
            for _ in range(_MESSAGES_MAX):
                if not shared.socket.recv(1, socket.MSG_DONTWAIT):
                    return

    def _abandon(self) -> None:
        """Request that the agent kill the command and all processes that it started; do not wait.

        An event loop that watches the socket sees end of file.
        """
        with contextlib.suppress(ClosedError):
            shared = self._get()
            with shared.use():
                if os.getpid() == self._owner:
                    self._order(wire.signal_order(signal.SIGKILL, wire.TO_TREE))
                    shut(shared.socket)
        if not self._is_watched:
            self._end_with(-signal.SIGKILL)

    def _end(self) -> None:
        """Kill the command and all processes that it started; wait at most `_END_SECONDS`."""
        self._kill_all()
        try:
            self._wait(_END_SECONDS)
        except (RunscError, TimeoutExpired):
            self._abandon()

    async def _wait_async(self) -> None:
        """Wait for the command to exit, without blocking the event loop."""
        while self.returncode is None:
            with contextlib.suppress(ClosedError):
                await aio.wait_for_end(self._get().socket.fileno())
            self._read_end()

    async def _end_async(self) -> None:
        """Kill the command and all processes that it started, without blocking the event loop."""
        self._kill_all()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._wait_async()
        except (RunscError, TimeoutError):
            self._abandon()

    def __del__(self, *arguments: Any) -> None:
        if self._shared is not None and os.getpid() != self._owner:
            drop_streams(self)
            return
        if not self._outlives and self.returncode is None:
            self._abandon()
        super().__del__(*arguments)

    # Methods that send signals to the command.

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command, unless it has exited.

        :param sig: the number of the signal, such as :data:`signal.SIGTERM`.
        :raises OSError: no signal has that number (EINVAL).
        :raises RunscError: the agent does not answer, or the sandbox has exceeded a limit.
        """
        if self.poll() is None:
            self._send(sig)

    def _send(self, sig: int, to: int = wire.TO_PROCESS) -> None:
        """Send a signal to the command without checking whether it has exited."""
        number = checks.signal_number(sig)
        is_kill = number == signal.SIGKILL
        if not self._order(wire.signal_order(number, to), 0 if is_kill else _ROOM_SECONDS):
            if not is_kill:
                raise self._unresponsive_error()
            # The signal can't be sent, because the command's socket is full. Shut the socket down,
            # so that the agent kills the command.
            with contextlib.suppress(ClosedError), self._get().use():
                shut(self._get().socket)

    def send_signal_to_group(self, sig: int) -> None:
        """Send a signal to the process group of the command, as :func:`os.killpg` does.

        :param sig: the number of the signal, such as :data:`signal.SIGTERM`.
        :raises OSError: no signal has that number (EINVAL).
        :raises RunscError: the agent does not answer, or the sandbox has exceeded a limit.
        """
        if self.poll() is None:
            self._send(sig, wire.TO_GROUP)

    def _signal(self, sig: int) -> None:
        self._send(sig)

    def _kill_all(self) -> None:
        """Kill the command and all processes that it started; return without waiting."""
        self._send(signal.SIGKILL, wire.TO_TREE)

    def kill_tree(self, timeout: float = KILL_SECONDS) -> bool:
        """Kill the command and all its descendants, in any session or process group (SIGKILL).

        Returns when all of them have exited. Does nothing once the exit status of the command is
        known.

        :param timeout: the time limit, in seconds. After that, the whole sandbox is killed, because
            a fork bomb may leave the agent no CPU time, and root in the sandbox may have stopped
            the agent.
        :returns: whether the sandbox still runs.
        """
        deadline = time.monotonic() + timeout
        order = wire.signal_order(signal.SIGKILL, wire.TO_TREE)
        if self._order(order, timeout) and self._tree_ends(deadline):
            return True
        self._place.kill()
        return False

    def _tree_ends(self, deadline: float) -> bool:
        """Return whether the agent closes the socket before `deadline`.

        The agent closes the socket when the command and all processes that it started have exited.
        """
        with contextlib.suppress(ClosedError), self._get().use():
            fd = self._get().socket.fileno()
            return wait_readable(fd, timeout=seconds_left(deadline), events=select.POLLRDHUP)
        return True

    def resize_terminal(self, columns: int, rows: int) -> None:
        """Change the size of the command's terminal.

        The terminal's foreground process group receives SIGWINCH.

        :param int columns: the number of columns.
        :param int rows: the number of rows.
        :raises ValueError: the command has no terminal, or a number is not from 1 to 65535.
        :raises RunscError: the agent does not answer, or the sandbox has exceeded a limit.
        """
        if self._spec.size is None:
            raise ValueError("the command has no terminal: terminal=True gives it one")
        rows, columns = wire.terminal_size((columns, rows))
        if self.poll() is None and not self._order(wire.size_order(rows, columns), _ROOM_SECONDS):
            raise self._unresponsive_error()

    def _order(self, message: bytes, seconds: float = 0) -> bool:
        """Send a message about the running command to the agent.

        :param seconds: the timeout, in seconds, if the socket is full.
        :returns: ``False`` if the socket stayed full, else ``True``, even if the agent has exited.
        """
        try:
            shared = self._get()
            with shared.use():
                send_order(shared.socket, message, time.monotonic() + seconds)
        except AgentTimeout:
            return False
        except (ConnectionError, ClosedError):
            pass
        return True


def _take_nulls(arguments: dict[str, Any]) -> set[int]:
    """Remove DEVNULL from the stream arguments; return the descriptor numbers of these streams.

    Otherwise subprocess would open /dev/null, and an exception that a signal handler raises could
    leak the descriptor.
    """
    if arguments.get("stdout") == DEVNULL and arguments.get("stderr") == STDOUT:
        arguments["stderr"] = DEVNULL
    names = ("stdin", "stdout", "stderr")
    nulls = {fd for fd, name in enumerate(names) if arguments.get(name) == DEVNULL}
    arguments.update((names[fd], None) for fd in nulls)
    return nulls


def _encoded(command: wire.Command, argv: Sequence[StrOrBytesPath]) -> tuple[bytes, bytes]:
    try:
        return wire.encode(command)
    except OSError as error:
        path = os.fsdecode(argv[0])
        raise CommandError.from_os_error(error, path, step="exec", filename=path) from None
