"""Functions and classes that open, wait for, share and close file descriptors."""

from __future__ import annotations

# _socket is private, but its C class, the base class of socket.socket, is unchanged from Python
# 3.11 to 3.14.
import _socket
import array
import contextlib
import errno
import fcntl
import math
import os
import select
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import FileIO
from itertools import chain
from types import TracebackType

from usernsctl._lean import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket

    from usernsctl._core import Descriptor

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_SO_PASSRIGHTS = 83  # The option's number in asm-generic/socket.h (see socket_pair()).

_UPDATE = "r+"  # The mode of a FileIO that reads and writes. "w" would truncate the file.


def open_owned(make: Callable[..., int], *arguments: Any) -> FileIO:
    """Call a C function that opens a file; return a file object that owns the descriptor.

    map() calls `make` and FileIO in C code. Python runs no signal handler between the two calls, so
    an exception of a handler can't leak the descriptor.

    :param make: a function such as ``os.open``; the file must not be a directory.
    :raises OSError: the function failed.
    """
    return next(map(FileIO, map(make, *zip(arguments)), [_UPDATE]))


def memory_file(name: str, content: bytes = b"", flags: int = 0) -> FileIO:
    """Create a memfd that contains `content`. The file offset is at the end.

    The descriptor has a number above 2 even if standard streams are closed, because a child that
    inherits the descriptor may have other files as its standard streams.

    :param flags: flags of memfd_create(2) in addition to MFD_CLOEXEC.
    :raises OSError: the file could not be created.
    """
    file = open_owned(os.memfd_create, name, os.MFD_CLOEXEC | flags)
    if file.fileno() < 3:
        with file as low:
            file = open_owned(fcntl.fcntl, low, fcntl.F_DUPFD_CLOEXEC, 3)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return file


def sealed_file(name: str, content: bytes) -> FileIO:
    """Create a memfd that contains `content`, and seal it against all changes.

    :raises OSError: the file could not be created.
    """
    file = memory_file(name, content, os.MFD_ALLOW_SEALING)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


def pipe(flags: int = 0) -> tuple[FileIO, FileIO]:
    """Create a pipe; return the read end and the write end.

    :param flags: flags of pipe2(2) in addition to O_CLOEXEC.
    :raises OSError: the pipe could not be created.
    """
    numbers = chain.from_iterable(map(os.pipe2, [os.O_CLOEXEC | flags]))
    read, write = map(FileIO, numbers, [_UPDATE, _UPDATE])
    return read, write


class Connection(_socket.socket):
    """A connected Unix socket that preserves message boundaries (SOCK_SEQPACKET, unix(7))."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_connection = partial(Connection, _socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0)


def socket_pair() -> tuple[Connection, Connection]:
    """Create a connected pair of sockets, the first for this process, the second for a child.

    The first socket is non-blocking, and has a number above 2 even if standard streams are closed.
    From Linux 6.16 on, the first socket refuses to receive descriptors (SO_PASSRIGHTS), because the
    peer could send a socket whose close(2) blocks (SO_LINGER, socket(7)).

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


# ---- waiting for descriptors ---------------------------------------------------------------------


def deadline_after(timeout: float | None) -> float | None:
    """Return the value of time.monotonic() after `timeout` seconds; None if `timeout` is None."""
    return None if timeout is None else time.monotonic() + timeout


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, 0 if it has passed, or None if `deadline` is None."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)


# poll(2) takes milliseconds as an int. Longer timeouts, such as math.inf, count as no timeout.
_POLL_SECONDS_MAX = (2**31 - 1) // 1000


def pollable(timeout: float | None) -> float | None:
    """Return a timeout in seconds, or None for a timeout that is too long for poll(2)."""
    return None if timeout is None or timeout > _POLL_SECONDS_MAX else timeout


def wait_readable(*fds: int, timeout: float | None = None, events: int = select.POLLIN) -> bool:
    """Wait until one of the descriptors can be read, or is at end of file.

    The function calls poll(2), because select(2) accepts only descriptors below 1024.

    :param timeout: the timeout in seconds; ``None`` for no timeout.
    :param events: the events of poll(2) to wait for; by default POLLIN.
    :returns: whether a descriptor became readable before the timeout.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    timeout = pollable(timeout)
    if timeout is None:
        return bool(poll.poll())
    return bool(poll.poll(math.ceil(max(timeout, 0) * 1000)))


@contextlib.contextmanager
def empty_input() -> Iterator[int]:
    """Yield a descriptor that is at end of file: the read end of a pipe without a writer.

    /dev/null would be at end of file, too, but may be missing.

    :raises OSError: no descriptors are left.
    """
    reader, writer = pipe()
    with reader:
        writer.close()
        yield reader.fileno()


def above_stdio(fd: int, stack: contextlib.ExitStack) -> int:
    """Return `fd` if it is greater than 2, else a duplicate with a number greater than 2.

    :param stack: the exit stack that will close the duplicate.
    :raises OSError: no descriptors are left.
    """
    if fd > 2:
        return fd
    return stack.enter_context(open_owned(fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)).fileno()


def receive(connection: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes, and up to `count` descriptors, which the caller must close.

    The descriptors are close-on-exec. socket.recv_fds() can't request this: it ignores its `flags`.

    :raises OSError: recvmsg(2) failed: with EMFILE if this process has too few free descriptors for
        those in the message.
    """
    # Import socket only here, because `usernsctl run` does not call this function.
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
    """Base class of objects that are closed at the end of a ``with`` block.

    If :meth:`_holds` returns true, the finaliser closes the object with a ResourceWarning.
    """

    #: The noun for an object of this class in the text of the ResourceWarning.
    _what = "an object"
    #: The pid of the process that created the object. Forked children have copies of the object.
    _creator: int

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made._creator = os.getpid()
        return made

    def close(self) -> None:
        raise NotImplementedError

    def _holds(self) -> bool:
        """Return whether the object is fully constructed and not closed."""
        return not getattr(self, "closed", True)

    def _check_open(self) -> None:
        """Check that the object is open.

        :raises ValueError: the object is closed.
        """
        if getattr(self, "closed", False):
            raise ValueError(f"the {self._what.partition(' ')[2]} is closed")

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
                    text = f"{self._what} was not closed: call close(), or use a with block"
                    warn_forgotten(self, text)
            finally:
                # Close the object in a `finally` clause, because -W error turns the warning into an
                # exception.
                self.close()


class AsyncClosing:
    """Base class of objects that are closed at the end of an ``async with`` block."""

    async def close_async(self) -> None:
        raise NotImplementedError

    async def _leave(self, error: BaseException | None) -> None:
        """Leave the ``async with`` block: close the object.

        :param error: the exception that was raised in the ``async with`` block.
        """
        await self.close_async()

    async def __aenter__(self) -> Self:
        """Enter the block.

        :raises RuntimeError: the caller is not an asyncio task. In that case, this method
            closes the object, because ``__aexit__()`` could not close it without asyncio.
        :raises ValueError: the object is closed.
        """
        if not _in_asyncio_task():
            if isinstance(self, Closing):
                self.close()
            raise RuntimeError(
                "async with needs asyncio; under Trio, use with in a thread "
                "(trio.to_thread.run_sync)"
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
    """Return whether the caller is an asyncio task.

    The function does not check for a running event loop of asyncio, because Trio's tasks also have
    one if Trio runs as a guest of asyncio (trio.lowlevel.start_guest_run()).
    """
    import asyncio

    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def warn_forgotten(owner: object, text: str) -> None:
    """Issue a ResourceWarning that `owner`, which is being finalised, was not closed.

    :param text: the text of the warning.
    """
    warnings.warn(text, ResourceWarning, source=owner, stacklevel=3)


class ClosedError(ValueError):
    """Error for using descriptors after they were closed."""


# A C function that returns true for a descriptor, and false for -1.
_IS_OPEN = (-1).__lt__


class Shared:
    """Descriptors that :meth:`close` closes once no thread uses them.

    Safe to use and close from several threads. The class uses only atomic operations (list.pop,
    set.add) instead of a lock: an exception of a signal handler could leave a lock acquired, and a
    handler that calls Popen.kill() could deadlock.
    """

    def __init__(self, what: str, fds: Iterable[int]) -> None:
        """Take ownership of descriptors; -1 stands for no descriptor.

        :param what: the noun for the descriptors in the error message of :class:`ClosedError`.
        :param fds: the descriptors. If an iterator such as ``map(os.pidfd_open, [pid])`` opens each
            descriptor, Python runs no signal handler before this object owns the descriptor, so an
            exception of a handler can't leak it.
        :raises BaseException: the iteration over `fds`, or a signal handler, raised an exception.
            Descriptors that an iterator has opened are closed; those of a sequence still belong to
            the caller.
        """
        self._what = what
        self._fds: list[int] = []
        self._unclosed: list[int] = []
        self._users: set[object] = set()
        self._is_closed = False
        try:
            self._unclosed.extend(fds)
            self._fds.extend(self._unclosed)
        except BaseException:
            if isinstance(fds, Sequence):
                self._unclosed.clear()
            # Close now, because the traceback of the exception keeps a reference to this object,
            # and so would keep the descriptors open.
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Return whether :meth:`close` was called, even if threads still use the descriptors."""
        return self._is_closed

    @contextlib.contextmanager
    def use(self) -> Iterator[Sequence[int]]:
        """Yield the descriptors; keep them open during the block, even after :meth:`close`.

        :raises ClosedError: :meth:`close` was called already.
        """
        user = object()
        try:
            # Register this use before the check. A concurrent close() then either makes the check
            # fail, or leaves the descriptors open until this use has ended.
            self._users.add(user)
            if self._is_closed:
                raise ClosedError(f"{self._what} is closed")
            yield self._fds
        finally:
            self._users.discard(user)
            self._close_if_unused()

    def close(self) -> None:
        """Close the descriptors as soon as no thread uses them."""
        self._is_closed = True
        self._close_if_unused()

    def __del__(self) -> None:
        # No thread uses the descriptors, because a user would hold a reference to this object. Call
        # close() only if descriptors are left to close: at interpreter exit, module globals may be
        # gone, and close() would fail.
        if hasattr(self, "_users") and (self._unclosed or not self._is_closed):
            self.close()

    def _close_if_unused(self) -> None:
        if self._is_closed and not self._users:
            self._release()

    def _release(self) -> None:
        # map() pops and closes each descriptor in C code, so that no signal handler runs between
        # the two steps. pop() ends the loop with IndexError when the list is empty.
        with contextlib.suppress(IndexError):
            deque(map(os.close, filter(_IS_OPEN, iter(self._unclosed.pop, None))), 0)


class SharedDescriptors(Shared):
    """Shared descriptors that :class:`Descriptor` objects own."""

    def __init__(self, what: str, owners: Sequence[Descriptor]) -> None:
        """Take ownership of the descriptors of `owners`."""
        self._owners = owners
        super().__init__(what, [owner.number for owner in owners])

    def _release(self) -> None:
        for owner in self._owners:
            owner.close()


class SharedSocket(Shared):
    """A socket that :meth:`close` closes once no thread uses it; use it only inside :meth:`use`."""

    def __init__(self, what: str, connection: Connection) -> None:
        """Take ownership of a connected socket."""
        self.socket = connection
        super().__init__(what, [connection.fileno()])

    def _release(self) -> None:
        self.socket.close()
