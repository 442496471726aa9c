"""The protocol of the agent of a sandbox, and connections to an agent.

The agent (csrc/programs/agent/) starts commands in the sandbox. Root in the sandbox may have
replaced the agent, so each of its messages is checked, and each wait has a deadline.
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
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from usernsctl._system.descriptors import (
    ClosedError,
    Connection,
    SharedSocket,
    seconds_left,
    wait_readable,
)
from usernsctl.errors import RunscError
from usernsctl.gvisor.result import Usage

VERSION = 1
_HELLO_MAGIC = 0x544E4741
_COMMAND_MAGIC = int.from_bytes(b"CMND", "little")

#: Bits of the field `flags` in the message that starts a command. _STRINGS_APART means that the
#: arguments and the environment are in a memfd; _PROGRAM, _IDS and _CAPABILITIES mean that an
#: optional field is present.
NEW_SESSION, TERMINAL, _STRINGS_APART, _PROGRAM, _IDS, NEW_GROUP, _CAPABILITIES = (
    1 << bit for bit in range(7)
)

#: Values for the recipients of a signal: the command, its process group, or all processes that it
#: started.
TO_PROCESS, TO_GROUP, TO_TREE = range(3)

#: The value of the fields umask and group count in a request for a command that keeps the agent's
#: umask or groups.
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

#: The size of the buffer for a message from the agent, in bytes. All valid messages are shorter.
MESSAGE_MAX = 256

# The maximum size of one message to the agent, in bytes. Longer arguments are sent in a memfd.
_TOGETHER_MAX = 32 << 10
#: The maximum size of the arguments and the environment of a command, in bytes. This is Linux's
#: limit for an RLIMIT_STACK of 8 MiB (execve(2)).
WORDS_MAX = 2 << 20

# The greatest errno (MAX_ERRNO, linux/err.h).
_ERRNO_MAX = 4095
# The greatest signal number (signal(7)).
_SIGNAL_MAX = 64

#: Names of the steps at which the start of a command may fail, by their numbers in messages.
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
    """The error for a message from the agent that is malformed or unexpected."""


class Started(NamedTuple):
    """The agent's message that a command was started; `pid` is the command's pid in the sandbox."""

    pid: int


class Failed(NamedTuple):
    """The agent's message that a command could not be started."""

    errno: int
    step: str


class Ended(NamedTuple):
    """The agent's message that a command has exited; `returncode` is -N if signal N killed it."""

    returncode: int
    usage: Usage


class Command(NamedTuple):
    """A command for the agent to start.

    :ivar program: the file to execute; ``None`` for the file that the first of `args` names.
    :ivar env: the whole environment, as ``NAME=VALUE`` entries.
    :ivar user: the uid and the gid of the command, or ``None`` for the agent's own.
    :ivar groups: the supplementary groups, or ``None`` for the agent's own.
    :ivar rlimits: resource limits, each a resource, a soft limit and a hard limit (setrlimit(2)).
    :ivar flags: the bits NEW_SESSION, NEW_GROUP and TERMINAL.
    :ivar size: the rows and columns of the terminal.
    :ivar capabilities: the capabilities of the command, as a bit mask (capabilities(7)).
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
    """Return a resource limit for a message to the agent, with a number in place of `name`.

    :param name: the name of the resource, such as ``"RLIMIT_NOFILE"``.
    :raises ValueError: no resource has that name.
    """
    number = getattr(resource, name, None)
    if number is None:
        raise ValueError(f"rlimits: {name!r} is not a resource limit")
    return number, soft, hard


def encode(command: Command) -> tuple[bytes, bytes]:
    """Encode the message that asks the agent to start a command.

    :returns: the message, and the content of the memfd for arguments that are too long for the
        message (empty if they fit).
    :raises ValueError: an argument or a variable has a NUL character.
    :raises OSError: the arguments and the environment are too long (E2BIG).
    """
    path = () if command.program is None else (command.program,)
    words = (command.cwd, *path, *command.args, *command.env)
    for word in words:
        if b"\0" in word:
            raise ValueError("embedded null byte in an argument or a variable of the command")
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
    flags |= _STRINGS_APART if is_apart else 0
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
    """Encode the message that sends signal `number` to the recipients `to`, such as TO_TREE."""
    return _ORDER.pack(_SIGNAL_KIND, to, number)


def terminal_size(size: Sequence[int]) -> tuple[int, int]:
    """Return the rows and the columns of a terminal size.

    :param size: the columns and the rows, in the order of :class:`os.terminal_size`.
    :raises TypeError: a number is not an integer.
    :raises ValueError: a number is out of range for a terminal.
    """
    columns, rows = map(operator.index, size)
    for name, number in (("columns", columns), ("rows", rows)):
        if not 0 < number <= 0xFFFF:
            raise ValueError(f"terminal: {number} {name} are out of range: 1 to 65535")
    return rows, columns


def size_order(rows: int, columns: int) -> bytes:
    """Encode the message that changes the size of a command's terminal."""
    # Pack rows and columns as one unsigned number, since more than 32767 rows do not fit into the
    # signed field of _ORDER.
    return struct.pack("<HHI", _SIZE_KIND, 0, rows << 16 | columns)


def read_hello(data: bytes) -> int:
    """Return the agent's pid in the sandbox, from the agent's first message.

    :raises ProtocolError: the message was not sent by an agent of this version of usernsctl.
    """
    if len(data) != _HELLO.size:
        raise ProtocolError(f"the first message has {len(data)} bytes, not {_HELLO.size}")
    magic, version, _, pid = _HELLO.unpack(data)
    if magic != _HELLO_MAGIC:
        raise ProtocolError(f"the first message begins with {data[:4]!r}")
    if version != VERSION:
        raise ProtocolError(f"the protocol has version {version}, not {VERSION}")
    return int(pid)


def read_start(data: bytes) -> Started | Failed:
    """Decode the agent's answer to the request to start a command.

    :raises ProtocolError: the message is malformed, or is not an answer to such a request.
    """
    kind, value = _kind_and_value(data)
    if kind == _STARTED_KIND and len(data) == _EVENT.size:
        if value <= 0:
            raise ProtocolError(f"the pid of the command is {value}")
        return Started(value)
    if kind == _FAILED_KIND and len(data) == _FAILED.size:
        _, _, number, step = _FAILED.unpack(data)
        if not 0 < number <= _ERRNO_MAX or step not in STEPS:
            raise ProtocolError(f"the failure has errno {number} and step {step}")
        return Failed(number, STEPS[step])
    raise ProtocolError(
        f"{len(data)} bytes of kind {kind} are not a valid answer to a start request"
    )


def read_end(data: bytes) -> Ended:
    """Decode the agent's message that a command has exited.

    :raises ProtocolError: the message is malformed, or does not say that a command has exited.
    """
    kind, value = _kind_and_value(data)
    if kind != _ENDED_KIND or len(data) != _ENDED.size:
        raise ProtocolError(f"{len(data)} bytes of kind {kind} are not a valid exit-status message")
    _, _, _, utime, stime, maxrss = _ENDED.unpack(data)
    return Ended(_returncode(value), Usage(utime / 1e6, stime / 1e6, maxrss))


def _kind_and_value(data: bytes) -> tuple[int, int]:
    if len(data) < _EVENT.size:
        raise ProtocolError(f"the message has only {len(data)} bytes")
    kind, zero, value = _EVENT.unpack_from(data)
    if zero:
        raise ProtocolError(f"the message has {zero} in the reserved field")
    return kind, value


def _returncode(status: int) -> int:
    """Convert a wait status (wait(2)) to a return code as :mod:`subprocess` defines it.

    :raises ProtocolError: `status` is not the status of a process that has exited.
    """
    number = status & 0x7F
    if number == 0 and not status & ~0xFF00:
        return status >> 8
    if 0 < number <= _SIGNAL_MAX and not status & ~0xFF:
        return -number
    raise ProtocolError(f"the wait status is {status:#x}")


def environment(inherited: Iterable[str], added: Mapping[str, str]) -> list[bytes]:
    """Return the environment of a command: the variables of the sandbox, overridden by `added`."""
    unchanged = (entry for entry in inherited if entry.partition("=")[0] not in added)
    entries = (*unchanged, *(f"{name}={value}" for name, value in added.items()))
    return [os.fsencode(entry) for entry in entries]


# The pause between two attempts to send a message, in seconds.
_LOOK_SECONDS = 0.005

# The timeout for a report of the agent about a command whose socket is closed, in seconds.
_REPORT_SECONDS = 1

_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class AgentClosed(Exception):
    """The error for an agent that exited before it received or sent a message."""


class AgentTimeout(Exception):
    """The error for an agent that did not read or send a message before the deadline."""


class AgentUnresponsive(RunscError):
    """The error for a command whose agent did not answer before the deadline."""


def agent_error(id: str, what: str, kind: type[RunscError] = RunscError) -> RunscError:
    """Return the error for an agent that failed.

    :param id: the id of the agent's sandbox.
    :param what: the predicate of the error message, such as ``"does not answer"``.
    """
    return kind(
        f"the agent in the sandbox {id} {what}",
        step="agent",
        cause="sandbox-agent",
        remedy="close the sandbox: a program inside may have stopped or replaced the agent",
    )


def shut(connection: Connection) -> None:
    """Shut a connection down, so that its peer sees end of file.

    close(2) alone is not enough, because a forked child of this process may have a copy of the
    descriptor.
    """
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def send_order(connection: Connection, message: bytes, deadline: float) -> None:
    """Send a message to the agent, on the socket of a running command.

    :param deadline: the deadline, as a :func:`time.monotonic` time.
    :raises AgentTimeout: the socket stayed full because the agent does not read.
    :raises ConnectionError: the agent has exited.
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
    """A connection to an agent that has sent its first message.

    :ivar pid: the agent's pid in the sandbox.
    """

    def __init__(self, connection: Connection, pid: int) -> None:
        """Take ownership of this process's end of the connection."""
        self.pid = pid
        self._owner = os.getpid()
        self._shared = SharedSocket("the connection to the agent", connection)

    def send(self, message: bytes, fds: Sequence[int], deadline: float) -> None:
        """Send the request to start a command.

        :param fds: the descriptors to send with the message. The caller closes its copies.
        :param deadline: the deadline, as a :func:`time.monotonic` time.
        :raises AgentClosed: the agent has exited, and did not receive the message.
        :raises AgentTimeout: the message could not be sent before the deadline.
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
                        # ETOOMANYREFS (unix(7)): too many descriptors that this user has sent have
                        # not been received yet.
                        pause(deadline)
        except (BrokenPipeError, ConnectionError, ClosedError) as error:
            raise AgentClosed from error

    async def await_room_async(self, deadline: float) -> None:
        """Wait until a message can be sent without blocking, or the agent has exited.

        :param deadline: the deadline, as a :func:`time.monotonic` time.
        :raises AgentTimeout: the socket stayed full because the agent does not read.
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

    def receive_failure(self) -> Failed | None:
        """Return the start failure that the agent reports on this connection, or None.

        The agent uses this connection for the report if it could not receive the command's own
        socket. gVisor's kernel closes that socket before the agent reports the failure, so wait for
        the report, at most `_REPORT_SECONDS`.
        """
        with contextlib.suppress(OSError, ClosedError, ProtocolError), self._shared.use():
            wait_readable(self._shared.socket.fileno(), timeout=_REPORT_SECONDS)
            answer = read_start(self._shared.socket.recv(MESSAGE_MAX))
            return answer if isinstance(answer, Failed) else None
        return None

    def is_alive(self) -> bool:
        """Return whether the agent's end of the connection is open."""
        try:
            with self._shared.use():
                poll = select.poll()
                poll.register(self._shared.socket.fileno(), select.POLLRDHUP)
                return not poll.poll(0)
        except ClosedError:
            return False

    def close(self) -> None:
        """Close the connection: the agent then kills the commands that it started, and exits.

        A forked child of the process that opened the connection only closes its copy of the
        descriptor.
        """
        with contextlib.suppress(ClosedError), self._shared.use():
            if os.getpid() == self._owner:
                shut(self._shared.socket)
        self._shared.close()


def _packed(fds: Sequence[int]) -> bytes:
    import array

    return array.array("i", fds).tobytes()


def pause(deadline: float) -> None:
    """Pause before the next attempt to send a message.

    :raises AgentTimeout: the deadline has passed.
    """
    left = seconds_left(deadline)
    if not left:
        raise AgentTimeout
    time.sleep(min(left, _LOOK_SECONDS))


async def pause_async() -> None:
    """Pause before the next attempt to send a message, without blocking the event loop."""
    import asyncio

    await asyncio.sleep(_LOOK_SECONDS)


def receive_hello(connection: Connection, deadline: float) -> int:
    """Wait for the first message of an agent, and return the agent's pid in the sandbox.

    :param deadline: the deadline, as a :func:`time.monotonic` time.
    :raises AgentClosed: the agent has exited before its first message.
    :raises AgentTimeout: the agent sent no message before the deadline.
    :raises ProtocolError: the message is not a valid first message of an agent.
    """
    if not wait_readable(connection.fileno(), timeout=seconds_left(deadline)):
        raise AgentTimeout
    try:
        hello = connection.recv(MESSAGE_MAX)
    except (BlockingIOError, ConnectionError):
        hello = b""
    if not hello:
        raise AgentClosed
    return read_hello(hello)
