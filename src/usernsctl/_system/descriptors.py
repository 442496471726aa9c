"""Descriptors: how to wait for them, share them, and close them at the end of a block."""

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
    """Return a file object of the descriptor that a function in C returns, but no directory's.

    :raises OSError: the function failed.
    """
    return next(map(FileIO, map(make, *zip(arguments)), [_UPDATE]))


def memory_file(name: str, content: bytes = b"", flags: int = 0) -> FileIO:
    """Make an anonymous file in memory with some content, whose offset is at its end.

    :param flags: flags of memfd_create(2), besides MFD_CLOEXEC.
    :raises OSError: the file could not be made.
    """
    file = open_owned(os.memfd_create, name, os.MFD_CLOEXEC | flags)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return file


def sealed_file(name: str, content: bytes) -> FileIO:
    """Make an anonymous file in memory that no process can change.

    :raises OSError: the file could not be made.
    """
    file = memory_file(name, content, os.MFD_ALLOW_SEALING)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


def pipe(flags: int = 0) -> tuple[FileIO, FileIO]:
    """Make a pipe; return its read end and its write end.

    :param flags: flags of pipe2(2), besides O_CLOEXEC.
    :raises OSError: the pipe could not be made.
    """
    numbers = chain.from_iterable(map(os.pipe2, [os.O_CLOEXEC | flags]))
    read, write = map(FileIO, numbers, [_UPDATE, _UPDATE])
    return read, write


class Connection(_socket.socket):
    """A socket of a connection that preserves message boundaries (SOCK_SEQPACKET, unix(7))."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_connection = partial(Connection, _socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0)


def socket_pair() -> tuple[Connection, Connection]:
    """Make a connection; return our end, which is non-blocking, and the end for another process.

    Our end has a number above those of the standard streams, which may be closed. Since Linux 6.16
    it receives no descriptors: the sender decides how long it takes to close one (SO_LINGER,
    socket(7)).

    :raises OSError: no descriptors are left.
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


# poll(2) takes milliseconds as an int. Longer timeouts, such as math.inf, wait without an end.
_POLL_SECONDS_MAX = (2**31 - 1) // 1000


def wait_readable(*fds: int, timeout: float | None = None, events: int = select.POLLIN) -> bool:
    """Wait until a descriptor can be read, or is at its end.

    By poll(2): select(2) takes only descriptors below 1024.

    :param timeout: how long to wait, in seconds; ``None`` to wait without an end.
    :param events: the events of poll(2) to wait for, in place of POLLIN.
    :returns: whether a descriptor can be read within that time.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    if timeout is None or timeout > _POLL_SECONDS_MAX:
        return bool(poll.poll())
    return bool(poll.poll(math.ceil(max(timeout, 0) * 1000)))


def above_stdio(fd: int, given: contextlib.ExitStack) -> int:
    """Return `fd`, or a copy with a number above those of the standard streams.

    :param given: closes the copy.
    :raises OSError: no descriptors are left.
    """
    import fcntl

    if fd > 2:
        return fd
    made = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    given.callback(os.close, made)
    return made


def receive(connection: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes and up to `count` descriptors, for the caller to close.

    The descriptors are close-on-exec; those of socket.recv_fds() are not, since it ignores flags.

    :raises OSError: recvmsg(2) failed; EMFILE if this process can't take all descriptors.
    """
    # Imported late: `usernsctl run` receives nothing.
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
    """An object that a ``with`` block closes, and a finaliser if it was forgotten, with a warning.

    The finaliser asks :meth:`_holds`, since the constructor may have failed.
    """

    #: A noun for objects of the class, for the warning.
    _what = "an object"
    #: The process that made the object, of which forked children have a copy.
    _creator: int

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made._creator = os.getpid()
        return made

    def close(self) -> None:
        raise NotImplementedError

    def _holds(self) -> bool:
        """Return whether the object holds something open."""
        return not getattr(self, "closed", True)

    def _check_open(self) -> None:
        """Check that the object is open.

        :raises ValueError: it was closed.
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
    """An object that an ``async with`` block closes without blocking the event loop."""

    async def close_async(self) -> None:
        raise NotImplementedError

    async def _leave(self, error: BaseException | None) -> None:
        """Leave the block.

        :param error: the exception that the block raised.
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
    """Warn that `owner`, which is being finalised, was not closed."""
    warnings.warn(text, ResourceWarning, source=owner, stacklevel=3)


class ClosedError(ValueError):
    """Descriptors were to be used, and were closed before."""


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
