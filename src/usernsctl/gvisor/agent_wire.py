"""The messages between this process and the agent of a sandbox (docs/agent.md).

What comes from inside is hostile: whatever is not just as it must be is a :class:`Lie`.
"""

from __future__ import annotations

import errno
import operator
import os
import resource
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from usernsctl._records import dataclass

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


class Lie(ValueError):
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
        raise Lie(f"its first message has {len(data)} bytes, not {_HELLO.size}")
    magic, version, _, pid = _HELLO.unpack(data)
    if magic != _HELLO_MAGIC:
        raise Lie(f"its first message begins with {data[:4]!r}")
    if version != VERSION:
        raise Lie(f"it speaks version {version} of the protocol, not {VERSION}")
    return int(pid)


def read_start(data: bytes) -> Started | Failed:
    """What came of the start of a command.

    :raises Lie: it does not tell that.
    """
    kind, value = _kind_and_value(data)
    if kind == _STARTED_KIND and len(data) == _EVENT.size:
        if value <= 0:
            raise Lie(f"it tells that the command is process {value}")
        return Started(value)
    if kind == _FAILED_KIND and len(data) == _FAILED.size:
        _, _, number, step = _FAILED.unpack(data)
        if not 0 < number <= _ERRNO_MAX or step not in STEPS:
            raise Lie(f"it tells of errno {number} at step {step}")
        return Failed(number, STEPS[step])
    raise Lie(f"it tells of no start, but by {len(data)} bytes of the kind {kind}")


def read_end(data: bytes) -> Ended:
    """How a command has ended that had started.

    :raises Lie: it does not tell that.
    """
    kind, value = _kind_and_value(data)
    if kind != _ENDED_KIND or len(data) != _ENDED.size:
        raise Lie(f"it tells of no end, but by {len(data)} bytes of the kind {kind}")
    _, _, _, utime, stime, maxrss = _ENDED.unpack(data)
    return Ended(_returncode(value), Usage(utime / 1e6, stime / 1e6, maxrss))


def _kind_and_value(data: bytes) -> tuple[int, int]:
    if len(data) < _EVENT.size:
        raise Lie(f"its message has {len(data)} bytes, fewer than any")
    kind, zero, value = _EVENT.unpack_from(data)
    if zero:
        raise Lie(f"its message has {zero} where nothing must be")
    return kind, value


def _returncode(status: int) -> int:
    """What subprocess makes of a wait status (wait(2)) of what has ended."""
    number = status & 0x7F
    if number == 0 and not status & ~0xFF00:
        return status >> 8
    if 0 < number <= _SIGNAL_MAX and not status & ~0xFF:
        return -number
    raise Lie(f"it tells of the wait status {status:#x}")


def environment(inherited: Iterable[str], added: Mapping[str, str]) -> list[bytes]:
    """The environment of a command: what the sandbox has, and what is added to that."""
    kept = (entry for entry in inherited if entry.partition("=")[0] not in added)
    entries = (*kept, *(f"{name}={value}" for name, value in added.items()))
    return [os.fsencode(entry) for entry in entries]
