"""The agent of a sandbox, as this process knows it: by a socket, and nothing else.

It is a program of ours (csrc/programs/agent/), but it runs where a stranger may be root. So nothing
that comes from there is believed before it is checked, and nothing is waited for without an end.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from usernsctl._lean import dataclass
from usernsctl._system.deadlines import seconds_left
from usernsctl._system.descriptors import ClosedError, Connection, SharedSocket, wait_readable
from usernsctl.errors import RunscError

VERSION = 1
_HELLO_MAGIC = 0x544E4741
_COMMAND_MAGIC = int.from_bytes(b"CMND", "little")

#: What a command may be asked to be, in its flags.
NEW_SESSION, TERMINAL, _WORDS_APART, _PROGRAM, _IDS, NEW_GROUP, _CAPABILITIES = (
    1 << bit for bit in range(7)
)

#: Who gets a signal: the command, its process group, or all that it has started.
TO_PROCESS, TO_GROUP, TO_TREE = range(3)

#: What is to be left as it is.
UNCHANGED = 0xFFFFFFFF

_HELLO = struct.Struct("<IHHI")
_HEADER = struct.Struct("<IHH8IHHQ")
_RLIMIT = struct.Struct("<IQQ")
_EVENT = struct.Struct("<HHi")
_FAILED = struct.Struct("<HHiI")
_ENDED = struct.Struct("<HHiQQQ")
_ORDER = struct.Struct("<HHi")

_STARTED_KIND, _FAILED_KIND, _ENDED_KIND = 1, 2, 3
_SIGNAL_KIND, _SIZE_KIND = 1, 2

#: More than any message has that comes from inside, so that a longer one is seen to be.
MESSAGE_MAX = 256

# What goes in one message; the rest of a longer one lies in a file in memory.
_TOGETHER_MAX = 32 << 10
#: Linux has as much for the words and the environment of a command (execve(2)) where the limit of
#: the stack is 8 MiB.
WORDS_MAX = 2 << 20

# The greatest errno (linux/err.h), and the greatest signal (signal(7)).
_ERRNO_MAX = 4095
_SIGNAL_MAX = 64

#: What has failed, by the numbers of the steps.
STEPS = {
    1: "words",
    2: "chdir",
    3: "ids",
    4: "rlimits",
    5: "exec",
    6: "fork",
    7: "terminal",
    8: "lookup",
}


class ProtocolError(ValueError):
    """What came from inside is no message that may come then."""


class Started(NamedTuple):
    """The command runs; `pid` is what it is called inside."""

    pid: int


class Failed(NamedTuple):
    """It could not be started."""

    errno: int
    step: str


class Usage(NamedTuple):
    """What a command and those of its children that it has waited for have used.

    As gVisor counts it (getrusage(2)): time in seconds, on behalf of the command and in the kernel,
    and the most memory that it had at once, in KiB.
    """

    utime: float
    stime: float
    maxrss: int


class Ended(NamedTuple):
    """It has ended; `returncode` is -N after signal N."""

    returncode: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the agent is to start.

    :ivar program: the file to execute, in place of the first of `args`.
    :ivar env: all of the environment, each entry NAME=VALUE.
    :ivar user: a uid and a gid, or ``None``: the agent's own.
    :ivar groups: its supplementary groups, or ``None``: the agent's own.
    :ivar rlimits: each a resource, the soft limit and the hard one (setrlimit(2)).
    :ivar flags: of NEW_SESSION, NEW_GROUP and TERMINAL.
    :ivar size: rows and columns of a terminal.
    :ivar capabilities: a bit for each that it has (capabilities(7)).
    """

    args: Sequence[bytes]
    program: bytes | None = None
    cwd: bytes = b"/"
    env: Sequence[bytes] = ()
    user: tuple[int, int] | None = None
    groups: Sequence[int] | None = None
    rlimits: Sequence[tuple[int, int, int]] = ()
    umask: int = UNCHANGED
    flags: int = 0
    size: tuple[int, int] = (0, 0)
    capabilities: int = 0


def rlimit(name: str, soft: int, hard: int) -> tuple[int, int, int]:
    """A limit as it is sent; `name` is like ``"RLIMIT_NOFILE"``.

    :raises ValueError: there is no limit of that name.
    """
    number = getattr(resource, name, None)
    if number is None:
        raise ValueError(f"rlimits: {name!r} is no resource limit")
    return number, soft, hard


def encode(command: Command) -> tuple[bytes, bytes]:
    """The message that has a command started.

    :returns: also the words, if these are to lie in a file of their own; else nothing.
    :raises ValueError: one of the words has a NUL character.
    :raises OSError: there are too many of them (E2BIG).
    """
    path = () if command.program is None else (command.program,)
    words = (command.cwd, *path, *command.args, *command.env)
    for word in words:
        if b"\0" in word:
            raise ValueError("embedded null byte: no word of a command can have one")
    text = b"".join(b"%b\0" % word for word in words)
    if len(text) > WORDS_MAX:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    groups = command.groups
    numbers = b"" if groups is None else struct.pack(f"<{len(groups)}I", *groups)
    limits = b"".join(_RLIMIT.pack(*limit) for limit in command.rlimits)
    is_apart = len(numbers) + len(limits) + len(text) > _TOGETHER_MAX
    flags = command.flags | _CAPABILITIES
    flags |= 0 if command.program is None else _PROGRAM
    flags |= 0 if command.user is None else _IDS
    flags |= _WORDS_APART if is_apart else 0
    header = _HEADER.pack(
        _COMMAND_MAGIC,
        VERSION,
        flags,
        *(command.user or (0, 0)),
        UNCHANGED if groups is None else len(groups),
        len(command.rlimits),
        len(command.args),
        len(command.env),
        len(text),
        command.umask,
        *command.size,
        command.capabilities,
    )
    head = header + numbers + limits
    return (head, text) if is_apart else (head + text, b"")


def signal_order(number: int, to: int) -> bytes:
    """The message that sends a signal."""
    return _ORDER.pack(_SIGNAL_KIND, to, number)


def terminal_size(size: Sequence[int]) -> tuple[int, int]:
    """The rows and columns of a size that has columns and lines, as os.terminal_size has them.

    :raises TypeError: these are no numbers.
    :raises ValueError: no terminal can have them.
    """
    columns, rows = map(operator.index, size)
    for name, number in (("columns", columns), ("rows", rows)):
        if not 0 < number <= 0xFFFF:
            raise ValueError(f"terminal: {number} {name} can't be had: 1 to 65535 can")
    return rows, columns


def size_order(rows: int, columns: int) -> bytes:
    """The message that changes the size of the terminal."""
    # The value is signed, but its bits are what counts.
    return struct.pack("<HHI", _SIZE_KIND, 0, rows << 16 | columns)


def read_hello(data: bytes) -> int:
    """The agent's pid inside, by its first message.

    :raises Lie: it is none of an agent of this version.
    """
    if len(data) != _HELLO.size:
        raise ProtocolError(f"its first message has {len(data)} bytes, not {_HELLO.size}")
    magic, version, _, pid = _HELLO.unpack(data)
    if magic != _HELLO_MAGIC:
        raise ProtocolError(f"its first message begins with {data[:4]!r}")
    if version != VERSION:
        raise ProtocolError(f"it speaks version {version} of the protocol, not {VERSION}")
    return int(pid)


def read_start(data: bytes) -> Started | Failed:
    """What came of the start of a command.

    :raises Lie: it does not tell that.
    """
    kind, value = _kind_and_value(data)
    if kind == _STARTED_KIND and len(data) == _EVENT.size:
        if value <= 0:
            raise ProtocolError(f"it tells that the command is process {value}")
        return Started(value)
    if kind == _FAILED_KIND and len(data) == _FAILED.size:
        _, _, number, step = _FAILED.unpack(data)
        if not 0 < number <= _ERRNO_MAX or step not in STEPS:
            raise ProtocolError(f"it tells of errno {number} at step {step}")
        return Failed(number, STEPS[step])
    raise ProtocolError(f"it tells of no start, but by {len(data)} bytes of the kind {kind}")


def read_end(data: bytes) -> Ended:
    """How a command has ended that had started.

    :raises Lie: it does not tell that.
    """
    kind, value = _kind_and_value(data)
    if kind != _ENDED_KIND or len(data) != _ENDED.size:
        raise ProtocolError(f"it tells of no end, but by {len(data)} bytes of the kind {kind}")
    _, _, _, utime, stime, maxrss = _ENDED.unpack(data)
    return Ended(_returncode(value), Usage(utime / 1e6, stime / 1e6, maxrss))


def _kind_and_value(data: bytes) -> tuple[int, int]:
    if len(data) < _EVENT.size:
        raise ProtocolError(f"its message has {len(data)} bytes, fewer than any")
    kind, zero, value = _EVENT.unpack_from(data)
    if zero:
        raise ProtocolError(f"its message has {zero} where nothing must be")
    return kind, value


def _returncode(status: int) -> int:
    """What subprocess makes of a wait status (wait(2)) of what has ended."""
    number = status & 0x7F
    if number == 0 and not status & ~0xFF00:
        return status >> 8
    if 0 < number <= _SIGNAL_MAX and not status & ~0xFF:
        return -number
    raise ProtocolError(f"it tells of the wait status {status:#x}")


def environment(inherited: Iterable[str], added: Mapping[str, str]) -> list[bytes]:
    """The environment of a command: what the sandbox has, and what is added to that."""
    kept = (entry for entry in inherited if entry.partition("=")[0] not in added)
    entries = (*kept, *(f"{name}={value}" for name, value in added.items()))
    return [os.fsencode(entry) for entry in entries]


# How often to try again where this user has too many descriptors under way, in seconds.
_LOOK_SECONDS = 0.005

_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class AgentClosed(Exception):
    """The agent has ended, and got nothing of what was to be sent to it."""


class AgentTimeout(Exception):
    """The agent did not do in time what was to be waited for."""


class AgentUnresponsive(RunscError):
    """The agent does not answer."""


def agent_error(id: str, what: str, kind: type[RunscError] = RunscError) -> RunscError:
    """The error for an agent that is of no use.

    :param id: of its sandbox.
    :param what: what is wrong with it.
    """
    return kind(
        f"the agent in the sandbox {id} {what}",
        step="agent",
        cause="sandbox-agent",
        remedy="a program inside may have stopped it or taken it over: close the sandbox",
    )


def shut(connection: Connection) -> None:
    """Have the other end see the end, though a fork of this process may have our end, too."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def send_order(connection: Connection, message: bytes, deadline: float) -> None:
    """Send something about a command, by its connection.

    :param deadline: until when, by the monotonic clock.
    :raises AgentLate: the agent took nothing of what was sent before.
    :raises ConnectionError: it has ended.
    """
    while True:
        try:
            connection.send(message, _SEND_FLAGS)
            return
        except BlockingIOError:
            _await_room(connection, deadline)


def _await_room(connection: Connection, deadline: float) -> None:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLOUT)
    left = seconds_left(deadline)
    if not left or not poll.poll(1 + int(left * 1000)):
        raise AgentTimeout


class Agent:
    """A connection to an agent that has said who it is.

    :ivar pid: the agent's own, inside.
    """

    def __init__(self, connection: Connection, pid: int) -> None:
        """Take over our end of the connection."""
        self.pid = pid
        self._owner = os.getpid()
        self._shared = SharedSocket("the connection to the agent", connection)

    def send(self, message: bytes, fds: Sequence[int], deadline: float) -> None:
        """Send a message that has a command started.

        :param fds: what goes with it; they stay the caller's.
        :param deadline: until when, by the monotonic clock.
        :raises AgentGone: nobody has got it.
        :raises AgentLate: it could not be sent in time.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _packed(fds))]
        try:
            with self._shared.use():
                while True:
                    try:
                        self._shared.socket.sendmsg([message], rights, _SEND_FLAGS)
                        return
                    except BlockingIOError:
                        _await_room(self._shared.socket, deadline)
                    except OSError as error:
                        if error.errno != errno.ETOOMANYREFS:
                            raise
                        # So many were sent by this user, and not yet received (unix(7)).
                        _pause(deadline)
        except (BrokenPipeError, ConnectionError, ClosedError) as error:
            raise AgentClosed from error

    async def room_async(self, deadline: float) -> None:
        """Wait until something can be sent at once, or the agent has ended.

        :param deadline: until when, by the monotonic clock.
        :raises AgentLate: it took nothing of what was sent before.
        """
        while not self._has_room():
            if not seconds_left(deadline):
                raise AgentTimeout
            await pause_async()

    def _has_room(self) -> bool:
        try:
            with self._shared.use():
                poll = select.poll()
                poll.register(self._shared.socket.fileno(), select.POLLOUT)
                return bool(poll.poll(0))
        except ClosedError:
            return True

    def told_failure(self) -> Failed | None:
        """What it has told of a message of ours whose own socket it did not get."""
        with contextlib.suppress(OSError, ClosedError, ProtocolError), self._shared.use():
            told = read_start(self._shared.socket.recv(MESSAGE_MAX))
            return told if isinstance(told, Failed) else None
        return None

    def is_alive(self) -> bool:
        """Whether it may get messages: its end was not seen."""
        try:
            with self._shared.use():
                poll = select.poll()
                poll.register(self._shared.socket.fileno(), select.POLLRDHUP)
                return not poll.poll(0)
        except ClosedError:
            return False

    def close(self) -> None:
        """Have it end all commands that it has started and that run, and then itself.

        In a fork of the process that has it, this closes the connection there, and no more.
        """
        with contextlib.suppress(ClosedError), self._shared.use():
            if os.getpid() == self._owner:
                shut(self._shared.socket)
        self._shared.close()


def _packed(fds: Sequence[int]) -> bytes:
    import array

    return array.array("i", fds).tobytes()


def _pause(deadline: float) -> None:
    left = seconds_left(deadline)
    if not left:
        raise AgentTimeout
    time.sleep(min(left, _LOOK_SECONDS))


async def pause_async() -> None:
    """Let an event loop go on, before it is looked again whether something can be done."""
    import asyncio

    await asyncio.sleep(_LOOK_SECONDS)


def receive_hello(connection: Connection, deadline: float) -> int:
    """Wait for an agent to say who it is: its pid inside.

    :param deadline: until when, by the monotonic clock.
    :raises AgentGone: it ended before.
    :raises AgentLate: it said nothing in time.
    :raises Lie: it said something else.
    """
    if not wait_readable(connection.fileno(), timeout=seconds_left(deadline)):
        raise AgentTimeout
    try:
        told = connection.recv(MESSAGE_MAX)
    except (BlockingIOError, ConnectionError):
        told = b""
    if not told:
        raise AgentClosed
    return read_hello(told)


class AgentCache:
    """The one agent that a sandbox has for this object: started when it is needed first.

    One that has ended is replaced when the next command is started. There is no lock: a fork would
    inherit it locked, and an exception of a signal handler could leave it so.
    """

    def __init__(
        self,
        start: Callable[[float], Agent],
        start_async: Callable[[float], Awaitable[Agent]] | None = None,
    ) -> None:
        """Have `start` make one, which is told until when, by the monotonic clock.

        :param start_async: does the same for an event loop.
        """
        self._start = start
        self._start_async = start_async
        self._agent: Agent | None = None
        self._closed = False
        # Who starts one: the process, for a fork has this, too; the thread; an object for each.
        self._starters: set[tuple[int, int, object]] = set()

    def current(self) -> Agent | None:
        """The agent, if there is one that lives."""
        agent = self._agent
        return agent if agent is not None and agent.is_alive() else None

    def get(self, deadline: float) -> Agent:
        """The agent; where there is none it is started.

        :raises AgentLate: somebody else's start of it took too long.
        :raises BaseException: what the start raises.
        """
        thread = threading.get_ident()
        # A start in this thread's event loop will not go on before this returns.
        while (agent := self.current()) is None and self._is_being_started(but_by=thread):
            _pause(deadline)
        if agent is not None:
            return agent
        with self._starting():
            return self.keep(self._start(deadline))

    async def get_async(self, deadline: float) -> Agent:
        """The same from asyncio.

        :raises AgentLate: somebody else's start of it took too long.
        :raises BaseException: what the start raises.
        """
        assert self._start_async is not None
        while (agent := self.current()) is None and self._is_being_started():
            if not seconds_left(deadline):
                raise AgentTimeout
            await pause_async()
        if agent is not None:
            return agent
        with self._starting():
            return self.keep(await self._start_async(deadline))

    def _is_being_started(self, but_by: int | None = None) -> bool:
        """Return whether a thread of this process other than `but_by` starts an agent."""
        process = os.getpid()
        return any(one[0] == process and one[1] != but_by for one in self._starters.copy())

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        own = (os.getpid(), threading.get_ident(), object())
        try:
            self._starters.add(own)
            yield
        finally:
            self._starters.discard(own)

    def keep(self, made: Agent) -> Agent:
        """Take over an agent that was started, unless there is one already: the one to be used."""
        # Somebody else may have been as fast.
        agent = self.current()
        if agent is not None:
            made.close()
            return agent
        before, self._agent = self._agent, made
        if before is not None:
            before.close()
        if self._closed:
            made.close()
        return made

    def close(self) -> None:
        """Let go of the agent, and with it of all that it has started. Waits for nobody."""
        self._closed = True
        agent = self._agent
        if agent is not None:
            agent.close()
