"""A command that the agent of a sandbox starts, as subprocess has it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from subprocess import DEVNULL, STDOUT, TimeoutExpired
from typing import Any, AnyStr, NoReturn

from usernsctl import _core
from usernsctl._lean import dataclass
from usernsctl._system.descriptors import (
    ClosedError,
    SharedSocket,
    sealed_file,
    socket_pair,
    wait_readable,
)
from usernsctl.commands import aio
from usernsctl.commands.aio import wait_for_end
from usernsctl.commands.arguments import Args, StrOrBytesPath, refuse, words_of
from usernsctl.commands.popen import drop_streams
from usernsctl.errors import CommandError, RunscError, UsernsError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent import protocol as wire
from usernsctl.gvisor.agent.protocol import (
    AgentCache,
    AgentClosed,
    AgentTimeout,
    AgentUnresponsive,
    Usage,
    agent_error,
    seconds_left,
    send_order,
    shut,
)
from usernsctl.gvisor.runsc.stdio import Streams, closed_streams

#: How long the start of a command may take where nobody says how long, in seconds.
START_SECONDS = 60

# How long the end of what was killed is waited for, in seconds: then it is left to the agent, which
# kills it as soon as it sees the end of the connection, if it is an honest one.
_END_SECONDS = 1

#: How long the end of all that a command has started is waited for where nobody says how long, in
#: seconds.
KILL_SECONDS = 10

# How long an order waits for room in the connection: whoever takes none for so long is stopped.
_ROOM_SECONDS = 1

# More than an agent of ours ever sends about one command.
_MESSAGES_MAX = 8

_MAX_INT = 2**31 - 1

# No process has this number or a greater one: they are less than 2**22 (PID_MAX_LIMIT,
# proc_sys_kernel(5)), and futex(2) has 30 bits for one.
_NO_PROCESS = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What a command is given besides its words and streams.

    :ivar env: all of its environment, each entry NAME=VALUE.
    :ivar audited: the variables that the caller has named.
    """

    env: Sequence[bytes]
    audited: Mapping[str, str] | None = None
    cwd: str | None = None
    user: tuple[int, int] | None = None
    groups: Sequence[int] | None = None
    rlimits: Sequence[tuple[int, int, int]] = ()
    capabilities: int = 0
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The sandbox that a command is started in.

    :ivar id: what runsc calls it.
    :ivar agents: who starts commands there.
    :ivar ended: tells the error that the sandbox has ended, or does so in a moment; ``None``: it
        has not.
    :ivar kill: kills the sandbox; does not wait for its end.
    """

    id: str
    agents: AgentCache
    ended: Callable[[], Exception | None]
    kill: Callable[[], None]


class SandboxPopen(subprocess.Popen[AnyStr]):
    """A command in a sandbox, as :meth:`usernsctl.Sandbox.popen` returns it.

    Everything is as with :class:`subprocess.Popen`, any thread may do it at any time, and a handler
    of signals too. What differs: no process of this machine has the number `pid`, since none stands
    for the command; so who takes it for one meets ESRCH, and hits no stranger. A command whose
    sandbox or agent ends, ends by SIGKILL. What it leaves running in the background goes on, unless
    :meth:`kill_tree` is called while it runs.

    :ivar pid_inside: the number of the process inside.
    :ivar rusage: what it has used, as gVisor counts it, once it has ended and was waited for.
    """

    #: A descriptor that can be read once the command has ended, for selectors and event loops, as a
    #: pidfd can be (pidfd_open(2)); -1 once it was waited for. It is a socket: leave its messages.
    pidfd: int = -1

    pid: int
    pid_inside: int
    rusage: wire.Usage | None = None
    # Until subprocess has looked at its arguments.
    returncode = None
    _outlives = True
    # Whether the socket is kept when the end is known: for who watches it, and since by it what the
    # command has left can be killed.
    _is_watched = False
    _shared: SharedSocket | None = None

    def __init__(
        self,
        place: Place,
        wanted: CommandSpec,
        args: Args,
        *,
        deadline: float,
        is_awaited: bool = True,
        outlives: bool = True,
        **arguments: Any,
    ) -> None:
        """Have it started.

        :param deadline: until when, by the monotonic clock.
        :param is_awaited: whether to wait for that; or else :meth:`_start_async` is called, and an
            agent that can't be asked at once is a silent one.
        :param outlives: whether it goes on if it is forgotten, as with subprocess.
        :param arguments: of :class:`subprocess.Popen`; `stdin` is DEVNULL by default.
        :raises CommandError: it could not be started.
        :raises RunscError: the agent is of no use.
        :raises TypeError: an argument is none, or of the wrong type.
        :raises ValueError: one can't be had, or not with this value.
        """
        self._place = place
        self._wanted = wanted
        self._deadline = deadline
        self._is_awaited = is_awaited
        self._outlives = outlives
        self._owner = os.getpid()
        # The command is not trusted: only an explicit stdin=None passes the caller's own.
        arguments.setdefault("stdin", DEVNULL)
        self._absent_streams = closed_streams() | _take_nulls(arguments)
        try:
            super().__init__(args, **arguments)
        except BaseException as error:
            self._abandon()
            if type(error) is not OSError:
                raise
            # For want of descriptors, pipes can't be made. A class of its own says what it is.
            raise CommandError.from_os_error(error, "the streams", step="stdio") from error

    def _execute_child(  # private, and the same from 3.11 to 3.14
        self,
        args: Args,
        executable: StrOrBytesPath | None,
        preexec_fn: None,
        close_fds: bool,
        pass_fds: Sequence[int],
        cwd: None,
        env: None,
        startupinfo: None,
        creationflags: int,
        shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: bool,
        gid: None,
        gids: None,
        uid: None,
        umask: int,
        start_new_session: bool,
        process_group: int | None,
    ) -> None:
        refuse(preexec_fn, shell)
        # Once: it may be an iterator.
        words = self._words = words_of(args)
        self._executable = executable
        command = self._command(words, executable, umask, start_new_session, process_group)
        message, apart = _encoded(command, words)
        wanted = self._wanted
        sys.audit("subprocess.Popen", executable or words[0], words, wanted.cwd, wanted.audited)
        with Streams(self._absent_streams) as streams:
            streams.add(p2cread, is_fresh=p2cwrite >= 0)
            streams.add(c2pwrite, is_fresh=c2pread >= 0)
            streams.add(errwrite, is_fresh=errread >= 0)
            self._ask(message, apart, streams.fds)
        if self._is_awaited:
            self._await_start()
        self._close_pipe_fds(  # type: ignore[attr-defined]
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        )

    def _command(
        self,
        words: Sequence[StrOrBytesPath],
        executable: StrOrBytesPath | None,
        umask: int,
        start_new_session: bool,
        process_group: int | None,
    ) -> wire.Command:
        """What the agent is to start.

        :raises OverflowError: a number is too large.
        :raises ValueError: the process group is one that exists.
        """
        wanted = self._wanted
        group = -1 if process_group is None else process_group
        for name, number in (("umask", umask), ("process_group", group)):
            if not -1 <= number <= _MAX_INT:
                raise OverflowError(f"{name}: {number} is too large, or less than -1")
        if group > 0:
            raise ValueError(f"process_group: {group} can't be joined; 0 makes a new one")
        flags = wire.NEW_SESSION if start_new_session else 0
        flags |= wire.NEW_GROUP if group == 0 else 0
        flags |= wire.TERMINAL if wanted.size is not None else 0
        return wire.Command(
            args=[os.fsencode(word) for word in words],
            program=None if executable is None else os.fsencode(executable),
            cwd=os.fsencode(wanted.cwd or "/"),
            env=wanted.env,
            user=wanted.user,
            groups=wanted.groups,
            rlimits=wanted.rlimits,
            umask=wire.UNCHANGED if umask < 0 else umask & 0o777,
            flags=flags,
            size=wanted.size or (0, 0),
            capabilities=wanted.capabilities,
        )

    # The start.

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
            raise self._silent() from None
        except OSError as error:
            if type(error) is not OSError:
                raise
            what = "the connection to the sandbox"
            raise CommandError.from_os_error(error, what, step="agent") from error

    def _send_once_or_twice(self, message: bytes, fds: Sequence[int]) -> None:
        """To a new agent, if the one that there was has just ended."""
        # Whoever does not wait for the start waits for nothing else here.
        deadline = self._deadline if self._is_awaited else time.monotonic()
        for _ in range(2):
            agent = self._place.agents.get(deadline)
            with contextlib.suppress(AgentClosed):
                agent.send(message, fds, deadline)
                return
        raise self._place.ended() or self._gone()

    def _await_start(self) -> None:
        shared = self._get()
        left = seconds_left(self._deadline)
        if not wait_readable(shared.socket.fileno(), timeout=left):
            raise self._silent()
        self._finish_start()

    async def _start_async(self) -> None:
        """Wait for the start, and take what the agent tells of it.

        If this is cancelled, all of the command is killed.

        :raises CommandError: the command could not be started.
        :raises RunscError: the agent is of no use.
        """
        import asyncio

        try:
            try:
                async with asyncio.timeout(seconds_left(self._deadline)):
                    await wait_for_end(self._get().socket.fileno())
            except TimeoutError:
                raise self._silent() from None
            self._finish_start()
        except BaseException:
            self._abandon()
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    stream.close()
            raise

    def _finish_start(self) -> None:
        """Take what the agent tells of the start.

        :raises CommandError: the command could not be started.
        :raises RunscError: the agent is of no use.
        """
        told = self._receive(0)
        if not told:
            self._fail_without_word()
        try:
            start = wire.read_start(told)
        except wire.ProtocolError as lie:
            raise agent_error(self._place.id, f"is not to be believed: {lie}") from None
        if isinstance(start, wire.Failed):
            raise self._failure(start)
        self.pid_inside = start.pid
        # The descriptor's number tells the commands of this process apart. None would not do: there
        # are callers, such as psutil, for whom it is this process itself.
        self.pid = _NO_PROCESS + self.pidfd
        self._child_created = True

    def _fail_without_word(self) -> NoReturn:
        """The agent has let go of the command's socket before it has told anything."""
        agent = self._place.agents.current()
        failed = None if agent is None else agent.told_failure()
        if failed is not None:
            raise self._failure(failed)
        raise self._place.ended() or self._gone()

    def _gone(self) -> RunscError:
        return agent_error(self._place.id, "has ended before it started the command")

    def _silent(self) -> RunscError:
        return agent_error(self._place.id, "does not answer", AgentUnresponsive)

    def _failure(self, failed: wire.Failed) -> UsernsError:
        if failed.step == "chdir":
            return _core.command_error(failed.step, failed.errno, self._wanted.cwd or "/")
        if failed.step in ("lookup", "exec"):
            path = os.fsdecode(self._executable or self._words[0])
            return _core.command_error(failed.step, failed.errno, path)
        return CommandError(
            f"the command could not be started in the sandbox {self._place.id}: "
            f"{os.strerror(failed.errno)}",
            step=failed.step,
            errno=failed.errno,
        )

    # The end.

    # These two are subprocess's, private, and the same from 3.11 to 3.14. Its own are about a
    # process of this machine with our number, which is a stranger's.

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        """Look whether the command has ended."""
        if self.returncode is None:
            try:
                self._look()
            except RunscError:
                # With it, it is not our caller who asks.
                if _deadstate is None:
                    raise
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            with contextlib.suppress(ClosedError):
                shared = self._get()
                with shared.use():
                    fd = shared.socket.fileno()
                    if not wait_readable(fd, timeout=seconds_left(deadline)):
                        assert timeout is not None
                        raise TimeoutExpired(self.args, timeout)
            self._look()
        return self.returncode

    def _look(self) -> None:
        """Learn the exit status, if there is one; any number may do so at once."""
        try:
            # It stays where it is, for all who look for it.
            told = self._receive(socket.MSG_PEEK)
        except BlockingIOError:
            return
        except ClosedError:
            self._end_with(-signal.SIGKILL)
            return
        if not told:
            self._end_with(-signal.SIGKILL)
            return
        try:
            ended = wire.read_end(told)
        except wire.ProtocolError as lie:
            self._abandon()
            self._end_with(-signal.SIGKILL)
            raise agent_error(self._place.id, f"is not to be believed: {lie}") from None
        self._end_with(ended.returncode, ended.usage)

    def _receive(self, flags: int) -> bytes:
        """What came on the command's socket: nothing, if its other end is closed.

        Descriptors that come with it are none that this process ever has: it asks for none.

        :raises BlockingIOError: nothing came yet.
        :raises ClosedError: the socket is closed.
        """
        shared = self._get()
        with shared.use():
            for _ in range(2):
                # What was not read of ours is told of first, and only once.
                with contextlib.suppress(ConnectionError):
                    return shared.socket.recv(wire.MESSAGE_MAX, flags | socket.MSG_DONTWAIT)
        return b""

    def _get(self) -> SharedSocket:
        if self._shared is None:
            raise ClosedError("the command has not started")
        return self._shared

    def _end_with(self, status: int, usage: wire.Usage | None = None) -> None:
        if self.returncode is None:
            self.rusage = usage
            self.returncode = status
        self._close_unless_watched()

    def _keep(self) -> None:
        """Keep the socket when the end is known, until :meth:`_let_go`: it is watched."""
        self._is_watched = True

    def _let_go(self) -> None:
        """Let go of the socket, once the end is known, and of what the command has left."""
        self._is_watched = False
        if self.returncode is not None:
            self._close_unless_watched()

    def _close_unless_watched(self) -> None:
        if self._is_watched:
            return
        self.pidfd = -1
        if self._shared is not None:
            self._take_all(self._shared)
            self._shared.close()

    def _take_all(self, shared: SharedSocket) -> None:
        """Take what was left for others to see.

        Or else the agent meets an error (ECONNRESET), before what was sent to it last.
        """
        if os.getpid() != self._owner:
            return
        with contextlib.suppress(OSError, ClosedError), shared.use():
            # First, so that who still waits for a message sees an end in its place.
            shut(shared.socket)
            for _ in range(_MESSAGES_MAX):
                if not shared.socket.recv(1, socket.MSG_DONTWAIT):
                    return

    def _abandon(self) -> None:
        """Have the agent kill all of it, and wait for nothing any more.

        Who watches the socket sees its end.
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
        """Kill all of it, and wait for the end, but not for an agent that does nothing."""
        self._kill_all()
        try:
            self._wait(_END_SECONDS)
        except (RunscError, TimeoutExpired):
            self._abandon()

    def __del__(self, *arguments: Any) -> None:
        if self._shared is not None and os.getpid() != self._owner:
            drop_streams(self)
            return
        if not self._outlives and self.returncode is None:
            self._abandon()
        super().__del__(*arguments)

    # Signals.

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command, if it has not ended, as subprocess does.

        :raises OSError: there is no such signal (EINVAL).
        :raises RunscError: the agent takes no more orders.
        """
        if self.poll() is None:
            self._send(sig)

    def _send(self, sig: int, to: int = wire.TO_PROCESS) -> None:
        """The same without a look whether it has ended."""
        number = checks.signal_number(sig)
        is_kill = number == signal.SIGKILL
        if not self._order(wire.signal_order(number, to), 0 if is_kill else _ROOM_SECONDS):
            if not is_kill:
                raise self._silent()
            # This much of it works without its doing anything now.
            with contextlib.suppress(ClosedError), self._get().use():
                shut(self._get().socket)

    def send_signal_to_group(self, sig: int) -> None:
        """Send a signal to the process group that the command leads, as :func:`os.killpg` does.

        :raises OSError: there is no such signal (EINVAL).
        :raises RunscError: the agent takes no more orders.
        """
        if self.poll() is None:
            self._send(sig, wire.TO_GROUP)

    def _signal(self, sig: int) -> None:
        self._send(sig)

    def _kill_all(self) -> None:
        """Kill the command and all that it has started; do not wait for the end of it."""
        self._send(signal.SIGKILL, wire.TO_TREE)

    def kill_tree(self, timeout: float = KILL_SECONDS) -> bool:
        """Kill the command and all that it has started, wherever it has gone (SIGKILL).

        Returns when nothing of it is left. Does nothing once it is known that the command has
        ended.

        :param timeout: how long that may take, in seconds. Then the whole sandbox is killed: a fork
            bomb may have so much of the processor that the agent does not get at it, and root
            inside may have stopped the agent.
        :returns: whether the sandbox goes on.
        """
        deadline = time.monotonic() + timeout
        order = wire.signal_order(signal.SIGKILL, wire.TO_TREE)
        if self._order(order, timeout) and self._tree_ends(deadline):
            return True
        self._place.kill()
        return False

    def _tree_ends(self, deadline: float) -> bool:
        """Wait until the agent sends nothing more, as it does when it has killed the tree."""
        with contextlib.suppress(ClosedError), self._get().use():
            fd = self._get().socket.fileno()
            return wait_readable(fd, timeout=seconds_left(deadline), events=select.POLLRDHUP)
        return True

    def resize_terminal(self, columns: int, rows: int) -> None:
        """Change the size of the command's terminal, which is told of it by SIGWINCH.

        :raises ValueError: it has no terminal, or none can have that size.
        :raises RunscError: the agent takes no more orders.
        """
        if self._wanted.size is None:
            raise ValueError("the command has no terminal: terminal=True gives it one")
        rows, columns = wire.terminal_size((columns, rows))
        if self.poll() is None and not self._order(wire.size_order(rows, columns), _ROOM_SECONDS):
            raise self._silent()

    def _order(self, message: bytes, seconds: float = 0) -> bool:
        """Send something to the agent; whether it could be, or there is none any more.

        :param seconds: how long to wait for room: the agent may be slower than we are.
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
    """Take DEVNULL out of a command's streams, and return the numbers of those that had it.

    subprocess would keep the number of an open /dev/null where an exception loses it.
    """
    if arguments.get("stdout") == DEVNULL and arguments.get("stderr") == STDOUT:
        arguments["stderr"] = DEVNULL
    names = ("stdin", "stdout", "stderr")
    nulls = {fd for fd, name in enumerate(names) if arguments.get(name) == DEVNULL}
    arguments.update((names[fd], None) for fd in nulls)
    return nulls


def _encoded(command: wire.Command, words: Sequence[StrOrBytesPath]) -> tuple[bytes, bytes]:
    try:
        return wire.encode(command)
    except OSError as error:
        path = os.fsdecode(words[0])
        raise CommandError.from_os_error(error, path, step="exec", filename=path) from None


class SandboxProcess(aio.Process):
    """A command in a sandbox: :meth:`usernsctl.Sandbox.create_subprocess_exec` returns it.

    It is an :class:`asyncio.subprocess.Process`, and has besides what
    :class:`usernsctl.SandboxPopen` has. What is sent to a command that has ended does nothing.
    """

    @property
    def _popen(self) -> SandboxPopen[Any]:
        transport: asyncio.SubprocessTransport = self._transport  # type: ignore[attr-defined]
        popen: SandboxPopen[Any] = transport.get_extra_info("subprocess")
        return popen

    @property
    def pid_inside(self) -> int:
        """The number of the process inside."""
        return self._popen.pid_inside

    @property
    def rusage(self) -> Usage | None:
        """What the command has used, as gVisor counts it, once it has ended and was waited for."""
        return self._popen.rusage

    def send_signal_to_group(self, sig: int) -> None:
        """Send a signal to the process group that the command leads, as :func:`os.killpg` does.

        :raises OSError: there is no such signal (EINVAL).
        :raises RunscError: the agent takes no more orders.
        """
        self._popen.send_signal_to_group(sig)

    def kill_tree(self, timeout: float = KILL_SECONDS) -> asyncio.Future[bool]:
        """Kill the command and all that it has started, wherever it has gone (SIGKILL).

        :param timeout: as for :meth:`usernsctl.SandboxPopen.kill_tree`.
        :returns: what can be awaited: the end of all that, and whether the sandbox goes on. It is
            killed also where nobody waits.
        """
        loop = asyncio.get_running_loop()
        # Its connection outlives it here: what it has left in the background is to go on.
        if self.returncode is None:
            return loop.run_in_executor(None, self._popen.kill_tree, timeout)
        done = loop.create_future()
        done.set_result(True)
        return done

    def resize_terminal(self, columns: int, rows: int) -> None:
        """Change the size of the command's terminal, which is told of it by SIGWINCH.

        :raises ValueError: it has no terminal, or none can have that size.
        :raises RunscError: the agent takes no more orders.
        """
        self._popen.resize_terminal(columns, rows)
