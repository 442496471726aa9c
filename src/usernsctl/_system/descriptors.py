"""Descriptors: waited for, such as pidfds, shared, and closed at the end of a block."""

from __future__ import annotations

import _socket  # private, and the same from 3.11 to 3.14: what socket's Python is made of
import array
import contextlib
import errno
import fcntl
import math
import os
import select
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import FileIO
from itertools import chain
from types import TracebackType

from usernsctl._lean import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_SO_PASSRIGHTS = 83  # asm-generic/socket.h

_UPDATE = "r+"  # says of a descriptor that exists what Python may do with it, and no more


def open_owned(make: Callable[..., int], *arguments: Any) -> FileIO:
    """What a function in C makes, but no directory.

    :raises OSError: it could not be made.
    """
    return next(map(FileIO, map(make, *zip(arguments)), [_UPDATE]))


def memory_file(name: str, content: bytes = b"", flags: int = 0) -> FileIO:
    """A file in memory that has no name among files, and stands at its end.

    :param flags: of memfd_create(2), besides MFD_CLOEXEC.
    :raises OSError: it could not be made.
    """
    file = open_owned(os.memfd_create, name, os.MFD_CLOEXEC | flags)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return file


def sealed_file(name: str, content: bytes) -> FileIO:
    """A file in memory that nobody can change any more.

    :raises OSError: it could not be made.
    """
    file = memory_file(name, content, os.MFD_ALLOW_SEALING)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


def pipe(flags: int = 0) -> tuple[FileIO, FileIO]:
    """The end of a pipe that is read, and the one that is written to.

    :param flags: of pipe2(2), besides O_CLOEXEC.
    :raises OSError: it could not be made.
    """
    numbers = chain.from_iterable(map(os.pipe2, [os.O_CLOEXEC | flags]))
    read, write = map(FileIO, numbers, [_UPDATE, _UPDATE])
    return read, write


class Connection(_socket.socket):
    """One end of a connection of sockets that keep messages apart (SOCK_SEQPACKET, unix(7))."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_connection = partial(Connection, _socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0)


def socket_pair() -> tuple[Connection, Connection]:
    """Our end of a connection, which never blocks, and that for others.

    Ours has none of the numbers that belong to standard streams, which may be closed. Since Linux
    6.16 it takes no descriptors: to close what came with a message may take as long as its sender
    likes (SO_LINGER, socket(7)).

    :raises OSError: there are no descriptors left.
    """
    made = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    ours, theirs = map(_connection, map(_socket.socket.detach, made))
    try:
        if ours.fileno() < 3:
            low, ours = ours, _higher(ours)
            low.close()
        ours.setblocking(False)
        with contextlib.suppress(OSError):
            ours.setsockopt(_socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return ours, theirs


def _higher(low: Connection) -> Connection:
    return next(map(_connection, map(fcntl.fcntl, [low], [fcntl.F_DUPFD_CLOEXEC], [3])))


# What poll(2) can count, in milliseconds of an int; math.inf and 25 days are without an end.
_POLL_SECONDS_MAX = (2**31 - 1) // 1000


def wait_readable(*fds: int, timeout: float | None = None, events: int = select.POLLIN) -> bool:
    """Wait until one of these descriptors can be read, or has come to its end.

    Not by select(2), which knows descriptors below 1024 only.

    :param timeout: how long, in seconds; ``None``: without an end.
    :param events: what to wait for in place of something to read, as poll(2) has it.
    :returns: whether one can be, within that time.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    if timeout is None or timeout > _POLL_SECONDS_MAX:
        return bool(poll.poll())
    return bool(poll.poll(math.ceil(max(timeout, 0) * 1000)))


def above_stdio(fd: int, given: contextlib.ExitStack) -> int:
    """The same with a number that is no standard stream's: our own may be closed.

    :param given: closes what is made for that.
    :raises OSError: there are no descriptors left.
    """
    import fcntl

    if fd > 2:
        return fd
    made = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    given.callback(os.close, made)
    return made


def receive(connection: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes, and up to `count` descriptors, which are the caller's to close.

    None of them is inherited by what is executed. Those of socket.recv_fds() are, and it takes
    flags without passing them on.

    :raises OSError: as recvmsg(2) says; EMFILE: there are more, which this process has no room for.
    """
    # A command that is executed at once receives nothing.
    import socket

    fds = array.array("i")
    room = socket.CMSG_LEN(count * fds.itemsize)
    data, parts, flags, _ = connection.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if flags & socket.MSG_CTRUNC and len(fds) < count:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return data, list(fds)


class Closing:
    """What is closed at the end of a ``with`` block, or, with a warning, when it is forgotten.

    A class that can't be told to be closed before it has got what it holds says so by
    :meth:`_holds`, which is asked when an object is forgotten: its constructor may have failed.
    """

    #: What an object of the class is, for the warning.
    _what = "an object"
    #: The process that has made it; its forked children have it, too.
    _creator: int

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made._creator = os.getpid()
        return made

    def close(self) -> None:
        raise NotImplementedError

    def _holds(self) -> bool:
        """Whether it has something that nobody has closed."""
        return not getattr(self, "closed", True)

    def _check_open(self) -> None:
        """Check that nobody has closed this object.

        :raises ValueError: somebody has.
        """
        if getattr(self, "closed", False):
            raise ValueError(f"the {self._what.removeprefix('a ')} is closed")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._holds():
            try:
                if os.getpid() == self._creator:
                    warn_forgotten(self, f"{self._what} was forgotten before it was closed")
            finally:
                # Warnings may be errors.
                self.close()


class AsyncClosing:
    """What is closed at the end of an ``async with`` block, without a wait in the event loop."""

    async def close_async(self) -> None:
        raise NotImplementedError

    async def _leave(self, error: BaseException | None) -> None:
        """The end of the block.

        :param error: what it has ended by.
        """
        await self.close_async()

    async def __aenter__(self) -> Self:
        """Enter the block.

        :raises RuntimeError: no task of asyncio enters it; this object is closed then, which could
            not be done without asyncio at the end of the block.
        :raises ValueError: it was closed before.
        """
        if not _in_asyncio_task():
            if isinstance(self, Closing):
                self.close()
            raise RuntimeError(
                "async with needs asyncio here; under Trio and other event loops, use with in a "
                "thread (trio.to_thread.run_sync)"
            )
        if isinstance(self, Closing):
            self._check_open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(error)


def _in_asyncio_task() -> bool:
    """Return whether a task of asyncio calls this.

    Where asyncio's event loop runs Trio as a guest, the loop is there in Trio's tasks, too.
    """
    import asyncio

    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def warn_forgotten(owner: object, text: str) -> None:
    """Say that `owner`, which is being collected, holds what somebody should have closed."""
    warnings.warn(text, ResourceWarning, source=owner, stacklevel=3)


class ClosedError(ValueError):
    """Descriptors that were to be used were let go of."""


class Shared:
    """Descriptors that are closed once they were let go of and nobody uses them any more.

    Any thread may use and close them at any time. There is no lock: an exception of a signal
    handler could leave that locked, and kill(), which signal handlers call, would wait for it. Each
    step here is one step for all threads (list.pop, set.add).
    """

    def __init__(self, what: str, fds: Sequence[int]) -> None:
        """Take over descriptors; -1 stands for none.

        :param what: what they are, for the error that it is closed.
        """
        self._what = what
        self._fds = list(fds)
        self._unclosed = [fd for fd in fds if fd >= 0]
        self._users: set[object] = set()
        self._let_go = False

    @property
    def closed(self) -> bool:
        """Whether they were let go of; they are still open for those who use them."""
        return self._let_go

    @contextlib.contextmanager
    def use(self) -> Iterator[Sequence[int]]:
        """Keep them from being closed, and their numbers from being used again.

        :raises LetGoError: they were let go of.
        """
        user = object()
        try:
            # In this order: whoever lets go of them after the look sees that there is a user.
            self._users.add(user)
            if self._let_go:
                raise ClosedError(f"{self._what} is closed")
            yield self._fds
        finally:
            self._users.discard(user)
            self._close_if_unused()

    def close(self) -> None:
        """Let go of them."""
        self._let_go = True
        self._close_if_unused()

    def __del__(self) -> None:
        # Who uses them has this object.
        if hasattr(self, "_users"):
            self.close()

    def _close_if_unused(self) -> None:
        if self._let_go and not self._users:
            self._release()

    def _release(self) -> None:
        # Whoever takes a number out closes it, in one call that is all C: an exception of a handler
        # of signals comes before or after it. All are taken once there is an IndexError.
        with contextlib.suppress(IndexError):
            deque(map(os.close, iter(self._unclosed.pop, None)), 0)


class SharedSocket(Shared):
    """The same for a socket, whose methods are called within :meth:`use` only."""

    def __init__(self, what: str, connection: Connection) -> None:
        """Take over a connection."""
        self.socket = connection
        super().__init__(what, [connection.fileno()])

    def _release(self) -> None:
        self.socket.close()
